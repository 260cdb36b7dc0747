"""Tiny models of the families whose features differ, for the step on a device."""

from runtime.models.hf_config import parse_config
from tests.support.reference_models import make_model
from tests.support.tiny_transformer import KINDS, SIZES, TableSource, TinyModel, tiny_model

FAMILIES: dict[str, dict[str, object]] = {
    "llama": {},
    "mistral": {"sliding_window": 6},
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": {"head_dim": 16},
    "gemma3_text": {
        "model_type": "gemma3_text",
        "query_pre_attn_scalar": 24,
        "sliding_window": 6,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
}


def model_of(family: str, num_layers: int = 2) -> TinyModel:
    """Return a random model; Gemma has norms after its blocks and two kinds of attention."""
    fields = FAMILIES[family] | {"num_hidden_layers": num_layers}
    if family in KINDS:
        return tiny_model(family, **fields)
    kinds = FAMILIES[family]["layer_types"]
    assert isinstance(kinds, list)
    fields = SIZES | fields | {"layer_types": kinds[:num_layers]}
    reference = make_model(fields, own_head=False)
    config = parse_config(fields)
    return TinyModel(reference, config, TableSource(dict(reference.state_dict())))
