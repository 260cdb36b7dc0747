"""Read a config.json as transformers 5 does, and reject what this decoder cannot compute."""

from collections.abc import Mapping

from parallel.model.model_config import Activation, ModelConfig
from runtime.models.config_keys import check_unread
from runtime.models.families.family import ModelFamily
from runtime.models.families.fields import Fields
from runtime.models.families.hf_rope import context_length
from runtime.models.families.registry import family_of
from runtime.weights.stored_tensors import check_quantization

_ACTIVATIONS: Mapping[str, Activation] = {
    "silu": Activation.SILU,
    "swish": Activation.SILU,
    "gelu_pytorch_tanh": Activation.GELU_TANH,
}
"""transformers' names."""


def parse_config(config: Mapping[str, object]) -> ModelConfig:
    """Return the model configuration that a config.json describes.

    Raises:
        ValueError: the architecture, a key or a value is not supported; names it.
    """
    fields = Fields(config)
    family = family_of(fields.get("model_type"))
    _check_class(fields, family)
    _check_fixed(fields, family)
    read = family.complete(_common(fields, family), fields)
    check_unread(fields.unread(), family.harmless)
    return read


def _common(fields: Fields, family: ModelFamily) -> ModelConfig:
    """Return the configuration without the features of its family."""
    defaults = family.defaults
    num_heads, hidden_size = fields.whole("num_attention_heads"), fields.whole("hidden_size")
    kv_default = defaults.num_kv_heads if not fields.states("num_key_value_heads") else None
    num_kv_heads = fields.whole("num_key_value_heads", kv_default or num_heads)
    if num_heads % num_kv_heads:
        raise ValueError(f"{num_heads} query heads do not share {num_kv_heads} kv heads evenly")
    head_dim = fields.whole("head_dim", defaults.head_dim or hidden_size // num_heads)
    if head_dim % 2:
        raise ValueError(f"head_dim is {head_dim}: rotary embeddings need an even number")
    positions = fields.whole("max_position_embeddings", defaults.max_positions)
    rope = family.rope(fields, positions)
    return ModelConfig(
        model_type=family.model_type,
        vocab_size=fields.whole("vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=fields.whole("intermediate_size"),
        num_layers=fields.whole("num_hidden_layers"),
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        max_positions=context_length(rope, positions),
        rms_norm_eps=fields.number("rms_norm_eps", 1e-6),
        rope=rope,
        activation=family.activation,
        tied_head=fields.flag("tie_word_embeddings", defaults.tied_head),
    )


def _check_class(fields: Fields, family: ModelFamily) -> None:
    """Reject models of the family that do not predict the next token."""
    classes = fields.get("architectures")
    if classes is None:
        return
    names = classes if isinstance(classes, list) else [classes]
    wanted = family.causal_class
    if not names or any(str(name).casefold() != wanted.casefold() for name in names):
        raise ValueError(
            f"architectures is {classes!r}: a {family.model_type} model that predicts the next "
            f"token is ['{wanted}']"
        )


def _check_fixed(fields: Fields, family: ModelFamily) -> None:
    """Reject foreign layouts of quantized weights, custom code and other activations."""
    check_quantization(fields.get("quantization_config"))
    if fields.get("auto_map"):
        raise ValueError(
            f"auto_map is {fields.get('auto_map')!r}: a model's own code is not run; if "
            f"it computes what transformers' own {family.model_type} computes, remove the key"
        )
    activation = fields.get(family.activation_key)
    if activation is not None and _ACTIVATIONS.get(str(activation)) is not family.activation:
        known = [name for name, kind in _ACTIVATIONS.items() if kind is family.activation]
        raise ValueError(
            f"activation {activation!r} ({family.activation_key}) is not supported; {known[0]} is"
        )
