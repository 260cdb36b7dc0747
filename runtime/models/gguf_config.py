"""Convert the metadata of a GGUF file to a Hugging Face configuration.

The reference is llama.cpp's loader: its defaults, and which keys it reads for an architecture. A
key of the architecture that is not listed here is rejected, because it may change the output.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from runtime.models.families.fields import Fields
from runtime.models.families.registry import gguf_family
from runtime.models.gguf_rope import rope_parameters

_HARMLESS = {
    "rope.scaling.finetuned": "describes how the model was made",
    "tensor_data_layout": "a note of the converter",
    "vocab_size": "taken from the embedding, and compared with the tokens",
}
_NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "attention.causal": (True,),
    "attention.sliding_window": (0,),
    "attention.clamp_kqv": (0,),
    "attention.max_alibi_bias": (0,),
    "attention.scale": (0,),
    "expert_count": (0,),
    "expert_used_count": (0,),
    "logit_scale": (0, 1),
    "residual_scale": (0, 1),
    "embedding_scale": (0, 1),
    "pooling_type": (0,),
}
"""Values with which a key has no effect."""


def config_of(
    metadata: Mapping[str, object],
    tensor_names: frozenset[str],
    *,
    vocab_size: int,
    rope_freqs: NDArray[np.float32] | None,
) -> dict[str, object]:
    """Return the fields of a config.json.

    Args:
        metadata: all keys of the file except large arrays.
        tensor_names: the names of its tensors.
        vocab_size: rows of its embedding.
        rope_freqs: the tensor of this name, divisors of the frequencies, if there is one.

    Raises:
        ValueError: a key or value is not supported; names it.
    """
    _check_whole(metadata)
    family, file_format = gguf_family(metadata.get("general.architecture"))
    prefix = f"{file_format.architecture}."
    fields = Fields(
        {k.removeprefix(prefix): v for k, v in metadata.items() if k.startswith(prefix)}
    )
    hidden_size, num_heads = fields.whole("embedding_length"), _heads(fields, "head_count")
    head_dim = fields.whole("attention.key_length", hidden_size // num_heads)
    for name in ("attention.value_length", "rope.dimension_count"):
        if fields.whole(name, head_dim) != head_dim:
            raise ValueError(
                f"{prefix}{name} is {fields.get(name)}, but heads have {head_dim} dimensions"
            )
    context = fields.whole("context_length")
    if rope_freqs is not None and not file_format.has_rope_freqs:
        raise ValueError(
            f"rope_freqs.weight is not part of the architecture {file_format.architecture}"
        )
    config: dict[str, object] = {
        "model_type": family.model_type,
        "architectures": [family.causal_class],
        "vocab_size": vocab_size,
        "hidden_size": hidden_size,
        "intermediate_size": fields.whole("feed_forward_length"),
        "num_hidden_layers": fields.whole("block_count"),
        "num_attention_heads": num_heads,
        "num_key_value_heads": _heads(fields, "head_count_kv", num_heads),
        "head_dim": head_dim,
        "max_position_embeddings": context,
        "rms_norm_eps": fields.number("attention.layer_norm_rms_epsilon"),
        "rope_parameters": rope_parameters(fields, head_dim, context, rope_freqs),
        "tie_word_embeddings": "output.weight" not in tensor_names,
        "dtype": "float32",
    }
    config |= file_format.settings(fields, config, tensor_names)
    _check_unread(prefix, fields.unread())
    return config


def _check_whole(metadata: Mapping[str, object]) -> None:
    """Reject adapters and parts of models."""
    kind = metadata.get("general.type", "model")
    if kind != "model":
        raise ValueError(f"general.type is {kind!r}: only whole models are supported")
    parts = metadata.get("split.count", 0)
    if isinstance(parts, int) and parts > 1:
        raise ValueError(
            f"split.count is {parts}: join the parts with llama-gguf-split --merge, and use the "
            "result"
        )


def _heads(fields: Fields, name: str, default: int | None = None) -> int:
    """Return a number of heads, which may be a list with an entry for each layer."""
    key = f"attention.{name}"
    value = fields.get(key)
    if isinstance(value, list):
        if len(set(value)) != 1:
            raise ValueError(f"{key} is {value}: layers with different heads are not supported")
        fields = Fields({key: value[0]})
    return fields.whole(key, default)


def _check_unread(prefix: str, unread: Mapping[str, object]) -> None:
    for name, value in unread.items():
        if name in _HARMLESS or (name in _NEUTRAL and value in _NEUTRAL[name]):
            continue
        raise ValueError(
            f"{prefix}{name} is {value!r}, which may change the output and is not supported"
        )
