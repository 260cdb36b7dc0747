"""A model family: how its config.json, its tensors and its GGUF files are read.

`runtime/models/hf_config.py` and `runtime/models/gguf_config.py` read what all families share; a
family states the rest. Keys that neither reads are rejected, unless `config_keys.py` or the family
lists them with a reason.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from parallel.model.model_config import Activation, ModelConfig, RopeConfig
from runtime.models.families.fields import Fields
from runtime.models.families.hf_rope import parse_rope

ConfigJson = Mapping[str, object]

COMMON_MODULES: Mapping[str, str] = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""The modules of a layer as GGUF names them, and as Hugging Face does for most families."""


def _as_read(config: ModelConfig, fields: Fields) -> ModelConfig:  # noqa: ARG001
    return config


def _no_settings(fields: Fields, common: ConfigJson, tensor_names: frozenset[str]) -> ConfigJson:  # noqa: ARG001
    return {}


def _as_stored(name: str, vector: Tensor) -> Tensor:  # noqa: ARG001
    return vector


def _in_order(name: str, num_rows: int, config: ConfigJson) -> Tensor | None:  # noqa: ARG001
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigDefaults:
    """The defaults of transformers' configuration class of a family."""

    max_positions: int
    num_kv_heads: int | None = None
    """None: as many as query heads."""
    head_dim: int | None = None
    """None: the hidden size over the query heads."""
    tied_head: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufFormat:
    """How llama.cpp's converter writes a family."""

    architecture: str
    modules: Mapping[str, str] = field(default_factory=dict)
    """Modules of a layer that `COMMON_MODULES` lacks or names differently for this family."""
    settings: Callable[[Fields, ConfigJson, frozenset[str]], ConfigJson] = _no_settings
    """(metadata of the architecture, config.json as all families have it, tensor names) -> further
    fields of config.json, and those that replace a common one. Raises ValueError for what is not
    supported."""
    restore: Callable[[str, Tensor], Tensor] = _as_stored
    """(Hugging Face name, a vector of the file) -> the vector as Hugging Face stores it."""
    row_order: Callable[[str, int, ConfigJson], Tensor | None] = _in_order
    """(Hugging Face name, number of rows, config.json) -> for each row of a tensor as Hugging Face
    stores it, the row of the file, [rows] int64; None: in the same order. Raises ValueError."""
    has_rope_freqs: bool = False
    """Whether llama.cpp reads the tensor rope_freqs.weight for the architecture."""

    def hf_module(self, module: str) -> str | None:
        """Return the Hugging Face name of a layer's module; None if there is none of this name."""
        return self.modules.get(module, COMMON_MODULES.get(module))


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFamily:
    """A model type of transformers that this decoder computes."""

    model_type: str
    causal_class: str
    """transformers' class that predicts the next token, as `architectures` names it."""
    defaults: ConfigDefaults
    activation: Activation = Activation.SILU
    activation_key: str = "hidden_act"
    rope: Callable[[Fields, int], RopeConfig] = parse_rope
    """(config.json, its max_position_embeddings) -> the rotary settings. Raises ValueError."""
    complete: Callable[[ModelConfig, Fields], ModelConfig] = _as_read
    """(what all families share, config.json) -> the whole configuration, with the family's own
    features. Raises ValueError for what is not supported."""
    harmless: Mapping[str, str] = field(default_factory=dict)
    """Further keys of config.json without effect on logits, and why."""
    gguf: GgufFormat | None = None
    """None: its GGUF files have another family's architecture."""
    unsupported: Mapping[str, str] = field(default_factory=dict)
    """Related model types that are not supported, and why."""
