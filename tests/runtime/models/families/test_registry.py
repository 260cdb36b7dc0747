"""The registry finds every family, and each one is what transformers calls by its name."""

from pathlib import Path

import pytest
from transformers import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from runtime.models import families
from runtime.models.families.registry import FAMILIES, GGUF_FAMILIES, family_of, gguf_family

NO_FAMILY = {"__init__", "family", "fields", "hf_rope", "layer_types", "registry"}


def test_each_module_of_the_room_is_a_family() -> None:
    modules = {path.stem for path in Path(families.__path__[0]).glob("*.py")} - NO_FAMILY
    assert len(FAMILIES) == len(modules)
    assert {"llama", "mistral", "qwen2", "qwen3"} <= modules


def test_each_family_has_a_test_of_its_own() -> None:
    modules = {path.stem for path in Path(families.__path__[0]).glob("*.py")} - NO_FAMILY
    tests = {path.stem.removeprefix("test_") for path in Path(__file__).parent.glob("test_*.py")}
    assert modules <= tests


@pytest.mark.parametrize("model_type", FAMILIES)
def test_names_and_defaults_are_those_of_transformers(model_type: str) -> None:
    family = family_of(model_type)
    theirs = CONFIG_MAPPING[model_type]()
    defaults = family.defaults
    assert MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[model_type] == family.causal_class
    assert defaults.max_positions == theirs.max_position_embeddings
    assert (defaults.num_kv_heads or theirs.num_attention_heads) == theirs.num_key_value_heads
    head_dim = defaults.head_dim or theirs.hidden_size // theirs.num_attention_heads
    assert head_dim == (getattr(theirs, "head_dim", None) or head_dim)
    assert defaults.tied_head == theirs.tie_word_embeddings
    assert hasattr(theirs, family.activation_key)


def test_an_unknown_name_is_rejected_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'gpt2' is not supported; these are: .*llama, mistral"):
        family_of("gpt2")
    with pytest.raises(ValueError, match="architecture None is not supported"):
        gguf_family(None)
    with pytest.raises(ValueError, match=r"'mistral' is not supported; these are: .*llama, qwen2"):
        gguf_family("mistral")  # such files are of the llama architecture


def test_each_gguf_architecture_belongs_to_one_family() -> None:
    formats = [family.gguf for family in FAMILIES.values() if family.gguf is not None]
    assert len(formats) == len(GGUF_FAMILIES)
