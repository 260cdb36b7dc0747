"""Gemma 3 models are those of transformers: configurations, checkpoints, GGUF files, decoding."""

import json
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from rich.console import Console
from rich.progress import Progress
from transformers import AutoConfig

from parallel.batch import SequenceRows
from parallel.group import Group, SoloGroup
from parallel.model.transformer import Decoder
from runtime.models.families.gemma3 import FAMILY
from runtime.models.gguf_config import config_of
from runtime.models.gguf_import import convert
from runtime.models.hf_config import parse_config
from runtime.models.weights import load_decoder
from tests.support.gguf_files import write_gguf
from tests.support.reference_models import expected, logits, make_model, save
from tests.support.tiny_transformer import CPU, make_cache, on_ranks, rows_of, score, tokens

WINDOW = 5
POSITIONS = 48
PROMPT = tokens(40, vocab_size=67)
FIELDS: dict[str, object] = {
    "model_type": "gemma3_text",
    "vocab_size": 67,
    "hidden_size": 48,
    "intermediate_size": 40,
    "num_hidden_layers": 7,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": POSITIONS,
    "sliding_window": WINDOW,
    "query_pre_attn_scalar": 24,
}
"""Layers 0 to 4 and 6 are local, layer 5 is global."""
GEMMA3_270M: dict[str, object] = {
    "_sliding_window_pattern": 6,
    "architectures": ["Gemma3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "attn_logit_softcapping": None,
    "bos_token_id": 2,
    "eos_token_id": 1,
    "final_logit_softcapping": None,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 640,
    "initializer_range": 0.02,
    "intermediate_size": 2048,
    "layer_types": (["sliding_attention"] * 5 + ["full_attention"]) * 3,
    "max_position_embeddings": 32768,
    "model_type": "gemma3_text",
    "num_attention_heads": 4,
    "num_hidden_layers": 18,
    "num_key_value_heads": 1,
    "pad_token_id": 0,
    "query_pre_attn_scalar": 256,
    "rms_norm_eps": 1e-06,
    "rope_local_base_freq": 10000.0,
    "rope_scaling": None,
    "rope_theta": 1000000.0,
    "sliding_window": 512,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.55.0.dev0",
    "use_bidirectional_attention": False,
    "use_cache": True,
    "vocab_size": 262144,
}
GEMMA3_1B: dict[str, object] = {
    "architectures": ["Gemma3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "attn_logit_softcapping": None,
    "bos_token_id": 2,
    "cache_implementation": "hybrid",
    "eos_token_id": [1, 106],
    "final_logit_softcapping": None,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 1152,
    "initializer_range": 0.02,
    "intermediate_size": 6912,
    "max_position_embeddings": 32768,
    "model_type": "gemma3_text",
    "num_attention_heads": 4,
    "num_hidden_layers": 26,
    "num_key_value_heads": 1,
    "pad_token_id": 0,
    "query_pre_attn_scalar": 256,
    "rms_norm_eps": 1e-06,
    "rope_local_base_freq": 10000,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": 512,
    "sliding_window_pattern": 6,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.50.0.dev0",
    "use_cache": True,
    "vocab_size": 262144,
}
GEMMA3_4B_TEXT = GEMMA3_1B | {
    "max_position_embeddings": 131072,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
    "sliding_window": 1024,
}
LINEAR = {"rope_type": "linear", "factor": 4.0}
OLD: dict[str, object] = {
    "rope_theta": 5000.0,
    "rope_local_base_freq": 700.0,
    "rope_scaling": LINEAR,
    "sliding_window_pattern": 6,
}
NEW: dict[str, object] = {
    "rope_parameters": {
        "full_attention": LINEAR | {"rope_theta": 5000.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 700.0},
    },
    "layer_types": ["sliding_attention"] * 5 + ["full_attention", "sliding_attention"],
}
VARIANTS: dict[str, dict[str, object]] = {
    "old spelling": OLD,
    "new spelling": NEW,
    "defaults": {},
    "own head": {"tie_word_embeddings": False},
    "capped logits": {"final_logit_softcapping": 3.0},
    "biases": {"attention_bias": True},
    "another pattern": {"sliding_window_pattern": 3},
    "local layers alone": {"layer_types": ["sliding_attention"] * 7},
    "global layers alone": {"layer_types": ["full_attention"] * 7},
    "stretched by yarn": {
        "rope_scaling": {
            "rope_type": "yarn",
            "factor": 4.0,
            "original_max_position_embeddings": 12,
        }
    },
}


@pytest.mark.parametrize("published", [GEMMA3_270M, GEMMA3_1B, GEMMA3_4B_TEXT])
@pytest.mark.parametrize("is_saved_again", [False, True])
def test_published_models_read_as_by_transformers(
    published: dict[str, object], is_saved_again: bool
) -> None:
    reference = AutoConfig.for_model(**json.loads(json.dumps(published)))
    fields = json.loads(reference.to_json_string()) if is_saved_again else published
    config = parse_config(fields)
    local = config.local_layers
    assert local is not None
    assert config.max_positions == reference.max_position_embeddings
    assert config.tied_head
    assert local.attention.window == reference.sliding_window
    assert [layer in local.layers for layer in range(config.num_layers)] == [
        kind == "sliding_attention" for kind in reference.layer_types
    ]
    ropes = reference.rope_parameters
    assert config.rope.theta == ropes["full_attention"]["rope_theta"]
    assert config.rope.factor == ropes["full_attention"].get("factor", 1.0)
    assert local.attention.rope.theta == ropes["sliding_attention"]["rope_theta"]
    assert config.attention_scale == reference.query_pre_attn_scalar**-0.5


@pytest.mark.parametrize("name", VARIANTS)
def test_logits_beyond_the_window_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    fields = FIELDS | VARIANTS[name]
    model = make_model(fields, own_head=False)
    for files in ("safetensors", "sharded"):
        directory = tmp_path / files
        save(model, fields, directory, files)
        torch.testing.assert_close(
            logits(directory, PROMPT), expected(directory, PROMPT), atol=1e-4, rtol=0
        )


def test_window_and_local_frequencies_change_the_logits_that_are_compared(tmp_path: Path) -> None:
    found = []
    for name, changes in (("a", {}), ("b", {"sliding_window": 40}), ("c", {"rope_theta": 50.0})):
        fields = FIELDS | OLD | changes
        save(make_model(fields, own_head=False), fields, tmp_path / name, "safetensors")
        found.append(logits(tmp_path / name, PROMPT))
    assert (found[0] - found[1]).abs().max() > 0.1
    assert (found[0] - found[2]).abs().max() > 0.1


def as_gguf(name: str, values: np.ndarray) -> np.ndarray:
    return values + 1 if name.endswith("norm.weight") else values


@pytest.mark.parametrize("is_scaled", [False, True])
def test_a_gguf_file_is_the_checkpoint_it_was_made_of(is_scaled: bool, tmp_path: Path) -> None:
    fields = FIELDS | {"query_pre_attn_scalar": 16}  # llama.cpp takes the size of a head
    if is_scaled:
        fields |= {"rope_scaling": LINEAR}
    model = make_model(fields, own_head=False)
    save(model, fields, tmp_path / "hf", "safetensors")
    file = write_gguf(
        tmp_path / "model.gguf",
        model,
        architecture="gemma3",
        values=as_gguf,
        change=lambda writer: writer.add_sliding_window(WINDOW),
    )
    (tmp_path / "converted").mkdir()
    convert(file, tmp_path / "converted", Progress(console=Console(quiet=True)))
    reference = expected(tmp_path / "hf", PROMPT)
    torch.testing.assert_close(logits(tmp_path / "converted", PROMPT), reference, atol=1e-4, rtol=0)
    torch.testing.assert_close(
        expected(tmp_path / "converted", PROMPT), reference, atol=1e-4, rtol=0
    )


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("gemma3")
    fields = FIELDS | NEW | {"final_logit_softcapping": 8.0}
    save(make_model(fields, own_head=False), fields, directory, "safetensors")
    return directory


def load(
    directory: Path, group: Group | None = None, *, layer_parallel_from: int | None = None
) -> Decoder:
    return load_decoder(
        directory,
        group or SoloGroup(),
        weights="float32",
        device=CPU,
        layer_parallel_from=layer_parallel_from,
    )


def test_ranks_that_share_the_model_compute_the_same(checkpoint: Path) -> None:
    parts = on_ranks(2, lambda group: score(load(checkpoint, group), PROMPT))
    reference = expected(checkpoint, PROMPT)
    torch.testing.assert_close(torch.cat(parts, dim=1), reference, atol=1e-4, rtol=0)


def test_ranks_that_share_out_the_layers_compute_the_same(checkpoint: Path) -> None:
    parts = on_ranks(2, lambda group: score(load(checkpoint, group, layer_parallel_from=0), PROMPT))
    reference = expected(checkpoint, PROMPT)
    torch.testing.assert_close(torch.cat(parts, dim=1), reference, atol=1e-4, rtol=0)


@pytest.mark.parametrize("chunks", [[40], [1] * 40, [7, 1, 1, 13, 18], [20, 5, 5, 5, 5]])
def test_chunks_and_single_tokens_score_as_the_whole_text(
    chunks: list[int], checkpoint: Path
) -> None:
    decoder, parts, start = load(checkpoint), [], 0
    cache = make_cache(decoder)
    cache.open(0, len(PROMPT))
    with torch.inference_mode():
        for size in chunks:
            rows = rows_of(PROMPT[start : start + size], start=start)
            parts.append(decoder.forward([rows], cache))
            start += size
    torch.testing.assert_close(torch.cat(parts), expected(checkpoint, PROMPT), atol=1e-4, rtol=0)


def test_a_tree_beyond_the_window_scores_each_path_and_the_kept_one_continues(
    checkpoint: Path,
) -> None:
    before, tree, parents = PROMPT[:30], (3, 9, 5, 7, 11, 13), (-1, 0, 0, 1, 3, 2)
    decoder = load(checkpoint)
    cache = make_cache(decoder)
    cache.open(0, len(PROMPT))
    rows = SequenceRows(
        slot=0, start=0, token_ids=before + tree, num_logits=len(tree), parents=parents
    )

    def path_to(node: int) -> tuple[int, ...]:
        return () if node < 0 else (*path_to(parents[node]), tree[node])

    with torch.inference_mode():
        found = decoder.forward([rows], cache)
        reference = [expected(checkpoint, before + path_to(node))[-1] for node in range(len(tree))]
        torch.testing.assert_close(found, torch.stack(reference), atol=1e-4, rtol=0)
        kept = path_to(4)  # nodes 0, 1, 3 and 4
        follow = SequenceRows(
            slot=0, start=34, token_ids=PROMPT[34:38], num_logits=4, moves=(30, 31, 33, 34)
        )
        after = decoder.forward([follow], cache)
    whole = expected(checkpoint, before + kept + PROMPT[34:38])
    torch.testing.assert_close(after, whole[-4:], atol=1e-4, rtol=0)


def test_a_rolled_back_draft_leaves_nothing_behind(checkpoint: Path) -> None:
    decoder = load(checkpoint)
    cache = make_cache(decoder)
    cache.open(0, len(PROMPT))
    with torch.inference_mode():
        decoder.forward([rows_of((*PROMPT[:20], 1, 2, 3, 4, 5, 6))], cache)
        found = decoder.forward([rows_of(PROMPT[20:], start=20)], cache)
    torch.testing.assert_close(found, expected(checkpoint, PROMPT)[20:], atol=1e-4, rtol=0)


def test_fewer_layers_keep_their_own_kind_of_attention(checkpoint: Path) -> None:
    whole = load(checkpoint)
    cut = load_decoder(checkpoint, SoloGroup(), weights="float32", device=CPU, layers=(0, 5, 6))
    torch.testing.assert_close(score(cut, PROMPT), score(whole.keeping((0, 5, 6)), PROMPT))


REFUSED: list[tuple[dict[str, object], str]] = [
    ({"model_type": "gemma3"}, "'gemma3' is not supported; it also reads images"),
    ({"architectures": ["Gemma3ForConditionalGeneration"]}, "Gemma3ForCausalLM"),
    ({"hidden_activation": "silu"}, "activation 'silu'"),
    ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping is 50.0"),
    ({"final_logit_softcapping": 0}, "final_logit_softcapping is 0"),
    ({"query_pre_attn_scalar": -1}, "query_pre_attn_scalar is -1"),
    ({"use_bidirectional_attention": True}, "use_bidirectional_attention is True"),
    ({"sliding_window": None}, "sliding_window is null"),
    ({"sliding_window_pattern": 0}, "sliding_window_pattern is 0"),
    ({"layer_types": ["sliding_attention"]}, "one entry for each of 7"),
    ({"layer_types": ["chunked_attention"] * 7}, "layer_types has 'chunked_attention'"),
    (NEW | {"rope_theta": 1.0}, "rope_theta is 1.0, and 5000.0"),
    (NEW | {"rope_local_base_freq": 1.0}, "rope_local_base_freq is 1.0, and 700.0"),
    (NEW | {"rope_scaling": LINEAR}, "both rope_scaling and rope_parameters"),
    ({"rope_parameters": {"rope_theta": 5000.0}}, "rope_parameters.rope_theta is 5000.0"),
    ({"rope_scaling": {"rope_type": "longrope"}}, "'longrope' is not supported"),
    (
        {"rope_parameters": {"sliding_attention": {"rope_type": "dynamic", "factor": 2.0}}},
        "dynamic",
    ),
    ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_what_is_not_supported_is_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_config(FIELDS | changes)


METADATA: dict[str, object] = {
    "general.architecture": "gemma3",
    "gemma3.context_length": 256,
    "gemma3.embedding_length": 96,
    "gemma3.block_count": 7,
    "gemma3.feed_forward_length": 96,
    "gemma3.attention.head_count": 4,
    "gemma3.attention.head_count_kv": 1,
    "gemma3.attention.key_length": 16,
    "gemma3.attention.value_length": 16,
    "gemma3.attention.layer_norm_rms_epsilon": 1e-6,
    "gemma3.attention.sliding_window": 8,
    "gemma3.rope.freq_base": 1000000.0,
}


def read(**changes: object) -> dict[str, object]:
    given = METADATA | {f"gemma3.{name.replace('__', '.')}": v for name, v in changes.items()}
    return config_of(given, frozenset(), vocab_size=67, rope_freqs=None)


def test_metadata_is_read_as_llama_cpp_does() -> None:
    config = parse_config(read())
    assert config.local_layers is not None
    assert config.local_layers.layers == {0, 1, 2, 3, 4, 6}
    assert config.local_layers.attention.window == 8
    assert (config.rope.theta, config.local_layers.attention.rope.theta) == (1e6, 1e4)
    assert config.attention_scale == 0.25
    assert config.tied_head
    assert parse_config(read(block_count=62)).attention_scale == 24**-0.5  # the 27B model's
    other = parse_config(read(attention__sliding_window_pattern=2, rope__freq_base_swa=50.0))
    assert other.local_layers is not None
    assert other.local_layers.layers == {0, 2, 4, 6}
    assert other.local_layers.attention.rope.theta == 50.0
    whole = parse_config(read(attention__sliding_window=0, final_logit_softcapping=30.0))
    assert (whole.local_layers, whole.logit_cap) == (None, 30.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"final_logit_softcapping": 30.0}, "final_logit_softcapping is 30.0 beside"),
        ({"attn_logit_softcapping": 30.0}, "attn_logit_softcapping is 30.0"),
        ({"rope__scaling__type": "yarn", "rope__scaling__factor": 4.0}, "'yarn'"),
        ({"attention__sliding_window_pattern": [True, False]}, "sliding_window_pattern is"),
    ],
)
def test_metadata_that_is_not_supported_is_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(**changes)


def test_llama_cpp_has_the_tensors_that_the_family_names() -> None:
    assert FAMILY.gguf is not None
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GEMMA3, 1)
    for module, ours in FAMILY.gguf.modules.items():
        assert names.get_name(f"model.layers.0.{ours}") == f"blk.0.{module}"
