"""The tensors of a model's checkpoint, and their shapes."""

from collections.abc import Sequence

from parallel.model.model_config import ModelConfig


def tensor_shapes(
    config: ModelConfig, layers: Sequence[int] | None = None
) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor that a decoder reads, by its Hugging Face name.

    Args:
        config: the model's shape.
        layers: the layers to keep; None keeps all.
    """
    hidden, vocab = config.hidden_size, config.vocab_size
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (vocab, hidden),
        "model.norm.weight": (hidden,),
    }
    if not config.tied_head:
        shapes["lm_head.weight"] = (vocab, hidden)
    block = _block_shapes(config)
    for layer in range(config.num_layers) if layers is None else layers:
        shapes |= {f"model.layers.{layer}.{name}": shape for name, shape in block.items()}
    return shapes


def _block_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    hidden, inner = config.hidden_size, config.intermediate_size
    query, kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    shapes: dict[str, tuple[int, ...]] = {f"{n}.weight": (hidden,) for n in config.norms.names}
    if config.qk_norm:
        shapes |= {f"self_attn.{name}.weight": (config.head_dim,) for name in ("q_norm", "k_norm")}
    for name, outputs, inputs, has_bias in (
        ("self_attn.q_proj", query, hidden, config.qkv_bias),
        ("self_attn.k_proj", kv, hidden, config.qkv_bias),
        ("self_attn.v_proj", kv, hidden, config.qkv_bias),
        ("self_attn.o_proj", hidden, query, config.output_bias),
        ("mlp.gate_proj", inner, hidden, config.mlp_bias),
        ("mlp.up_proj", inner, hidden, config.mlp_bias),
        ("mlp.down_proj", hidden, inner, config.mlp_bias),
    ):
        shapes[f"{name}.weight"] = (outputs, inputs)
        if has_bias:
            shapes[f"{name}.bias"] = (outputs,)
    return shapes
