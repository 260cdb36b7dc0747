"""Writes GGUF files of small models, in the way of llama.cpp's converter."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

Change = Callable[[gguf.GGUFWriter], None]
Convert = Callable[[str, np.ndarray], np.ndarray]


def write_gguf(
    file: Path,
    model: PreTrainedModel,
    *,
    change: Change = lambda _: None,
    tokenizer: Change | None = None,
    skip: Sequence[str] = (),
    extra: dict[str, np.ndarray] | None = None,
    byte_order: gguf.GGUFEndian = gguf.GGUFEndian.LITTLE,
    architecture: str | None = None,
    values: Convert = lambda _, values: values,
    blocks: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
) -> Path:
    """Write a model.

    Args:
        file: where to.
        model: of transformers.
        change: adds further keys, or replaces some.
        tokenizer: adds the tokenizer's keys; None: a byte-level one of single characters.
        skip: tensors to leave out, by their GGUF names.
        extra: tensors to add.
        byte_order: of all numbers.
        architecture: as llama.cpp names it; None: the model type, llama for mistral.
        values: what the converter makes of a tensor, by its Hugging Face name.
        blocks: the type of tensors that `values` returns as bytes.
    """
    kind = model.config.model_type
    name = architecture or ("llama" if kind == "mistral" else kind)
    writer = gguf.GGUFWriter(file, name, endianess=byte_order)  # codespell:ignore endianess
    _add_sizes(writer, model)
    _add_rope(writer, model)
    (tokenizer or characters(model.config.vocab_size))(writer)
    change(writer)
    for name, stored in (_tensors(model, writer.arch, values) | (extra or {})).items():
        if name not in skip:
            writer.add_tensor(name, stored, raw_dtype=blocks if stored.dtype == np.uint8 else None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def characters(vocab_size: int) -> Change:
    """Return what adds a byte-level tokenizer of single characters."""
    words = ["<s>", "</s>", "!!", *(chr(33 + i) for i in range(vocab_size - 3))]

    def add(writer: gguf.GGUFWriter) -> None:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("gpt-2")
        writer.add_token_list(words)
        writer.add_token_types([3, 3] + [1] * (len(words) - 2))
        writer.add_token_merges(["! !"])
        writer.add_bos_token_id(0)
        writer.add_eos_token_id(1)
        writer.add_chat_template("{{ messages[0]['content'] }}")

    return add


def without(*keys: str) -> Change:
    """Return what removes keys."""

    def remove(writer: gguf.GGUFWriter) -> None:
        for key in keys:
            del writer.kv_data[0][key]

    return remove


def _add_sizes(writer: gguf.GGUFWriter, model: PreTrainedModel) -> None:
    config = model.config
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    head_dim = model.model.layers[0].self_attn.head_dim
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    if writer.arch == "llama":
        writer.add_rope_dimension_count(head_dim)
        writer.add_vocab_size(config.vocab_size)


def _add_rope(writer: gguf.GGUFWriter, model: PreTrainedModel) -> None:
    rope = _rope(model)
    writer.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    if rope["rope_type"] == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(rope["factor"])
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])


def _rope(model: PreTrainedModel) -> dict[str, Any]:
    """Return the rotary settings, of global layers where each type of layer has its own."""
    by_type: dict[str, Any] = model.config.rope_parameters
    rope: dict[str, Any] = by_type.get("full_attention", by_type)
    return rope


def _tensors(model: PreTrainedModel, architecture: str, convert: Convert) -> dict[str, np.ndarray]:
    config, tensors = model.config, {}
    kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(kinds[architecture], config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings and _is_tied(model):
            continue
        values = convert(name, tensor.detach().float().numpy())
        module, _, part = name.rpartition(".")
        if config.model_type in ("llama", "mistral"):
            if module.endswith("q_proj"):
                values = _interleaved(values, config.num_attention_heads)
            elif module.endswith("k_proj"):
                values = _interleaved(values, config.num_key_value_heads)
        tensors[f"{names.get_name(module)}.{part}"] = values
    if _rope(model)["rope_type"] == "llama3" and config.model_type in ("llama", "mistral"):
        tensors["rope_freqs.weight"] = _divisors(model).numpy()
    return tensors


def _is_tied(model: PreTrainedModel) -> bool:
    return torch.equal(model.lm_head.weight, model.model.embed_tokens.weight)


def _divisors(model: PreTrainedModel) -> Tensor:
    """Return by what the model's frequencies are smaller than plain ones."""
    head_dim = model.model.layers[0].self_attn.head_dim
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
    plain = 1.0 / model.config.rope_parameters["rope_theta"] ** exponents
    divisors: Tensor = plain / model.model.rotary_emb.original_inv_freq
    return divisors


def _interleaved(values: np.ndarray, heads: int) -> np.ndarray:
    """Order rows as llama.cpp's converter does for its rotary kernel."""
    rows = values.shape[0]
    halves = values.reshape(heads, 2, rows // heads // 2, *values.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(values.shape))
