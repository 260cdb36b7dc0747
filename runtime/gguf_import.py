"""Turn a GGUF file into a Hugging Face directory: `python -m runtime.gguf_import SRC DST`.

A program of its own, because it needs transformers, whose import takes longer than all else at
start-up.
"""

import json
import sys
from pathlib import Path

import gguf
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from safetensors.numpy import save_file
from transformers import AutoConfig, AutoTokenizer
from transformers.utils import logging as transformers_logging

from runtime.errors import ConfigError

_ROTATED = ("llama", "mistral")
"""Architectures whose query and key rows GGUF stores interleaved for its rotary kernel."""
_TOP = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_BLOCK = {
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
_IGNORED = ("rope_freqs.weight",)


def convert(source: Path, directory: Path, progress: Progress) -> None:
    """Write weights (float32), configuration and tokenizer of a GGUF file to a directory.

    Raises:
        ConfigError: the file is no readable GGUF, or of an architecture that is not supported.
    """
    name, folder = source.name, str(source.parent)
    task = progress.add_task(f"reading {name}", total=None)
    try:
        reader = gguf.GGUFReader(source)
        config = AutoConfig.from_pretrained(folder, gguf_file=name)
    except (ValueError, IndexError, KeyError, OSError) as error:
        raise ConfigError(f"{source} cannot be read as GGUF ({error}): is it complete?") from error
    progress.update(task, description=f"converting {name}", total=len(reader.tensors))
    weights: dict[str, np.ndarray] = {}
    for tensor in reader.tensors:
        if tensor.name not in _IGNORED:
            values = _dequantized(tensor, source)
            weights[_name(tensor.name, source)] = _unrotate(tensor.name, values, config)
        progress.advance(task)
    config.tie_word_embeddings = "lm_head.weight" not in weights
    config.dtype = "float32"
    progress.update(task, description="writing the tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    tokenizer.save_pretrained(directory)
    config.save_pretrained(directory)
    eos = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id}
    text = json.dumps(eos, indent=2) + "\n"
    (directory / "generation_config.json").write_text(text, encoding="utf-8")
    progress.update(task, description="writing the weights")
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})


def _dequantized(tensor: gguf.ReaderTensor, source: Path) -> np.ndarray:
    try:
        values = gguf.dequantize(tensor.data, tensor.tensor_type)
    except NotImplementedError as error:
        raise ConfigError(
            f"{source}: {tensor.name} is stored as {tensor.tensor_type.name}, which cannot be read"
        ) from error
    return np.asarray(values, dtype=np.float32)


def _name(name: str, source: Path) -> str:
    """Return the Hugging Face name of a GGUF tensor."""
    if name in _TOP:
        return _TOP[name]
    parts = name.split(".")
    if len(parts) == 4 and parts[0] == "blk" and parts[2] in _BLOCK:
        return f"model.layers.{parts[1]}.{_BLOCK[parts[2]]}.{parts[3]}"
    raise ConfigError(f"{source} has the tensor {name!r}, which no supported architecture has")


def _unrotate(name: str, values: np.ndarray, config: AutoConfig) -> np.ndarray:
    """Put query and key rows back in the order that rotates halves, not pairs."""
    kind = name.split(".")[2] if name.startswith("blk.") else ""
    if config.model_type not in _ROTATED or kind not in ("attn_q", "attn_k"):
        return values
    heads = config.num_attention_heads if kind == "attn_q" else config.num_key_value_heads
    rows = values.shape[0]
    paired = values.reshape(heads, rows // heads // 2, 2, *values.shape[1:])
    return np.ascontiguousarray(paired.swapaxes(1, 2).reshape(values.shape))


def main() -> int:
    """Convert; report an unusable file on standard error with exit code 2."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    try:
        with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
            convert(Path(sys.argv[1]), Path(sys.argv[2]), progress)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
