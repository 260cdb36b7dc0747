"""PEARL on a GPU, with its drafter on the CPUs or beside the target, and transformers' generate.

The model is random and made here. Its later layers add little, so that its first layers alone are a
drafter whose tokens are often accepted.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import tokenizers
import torch
from safetensors.torch import save_file
from tokenizers import models, pre_tokenizers
from torch import Tensor
from transformers import LlamaConfig, PreTrainedTokenizerFast

from parallel.model.shapes import tensor_shapes
from runtime.baselines.transformers_baseline import TransformersBaseline
from tests.support.gpu_check import ROOT, Figures, NotHere
from tests.support.gpu_decode import ModelShape

SHAPE = ModelShape(
    name="0.5B", hidden=1536, inner=4096, layers=20, heads=12, kv=4, vocab=16_384
)  # fmt: skip
_FIRST_LAYERS = 2
_LATER_SHARE = 0.02
"""What the layers after the first ones add, as a share of what they would."""
_NUM_PROMPTS, _PROMPT_TOKENS = 3, 48


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One way to run a target with a drafter."""

    drafter: str
    device: str = "cuda"
    drafter_device: str = "auto"
    tp: int = 1
    modes: str = "autoregressive,pearl"

    def command(self, directory: Path, prompts: Path, max_tokens: int) -> list[str]:
        """Return the command that measures it."""
        options = {
            "models.device": self.device,
            "models.drafter_device": self.drafter_device,
            "models.weights": "bfloat16",
        }
        return [
            *(sys.executable, "-m", "cluster.cli", "bench", "decode"),
            *("--target", str(directory), "--drafter", self.drafter, "--tp", str(self.tp)),
            *("--prompts", str(prompts), "--modes", self.modes, "--repeats", "2"),
            *("--max-tokens", str(max_tokens), "--json"),
            *(text for name, value in options.items() for text in ("--set", f"{name}={value}")),
        ]


ON_THE_CPU = Setting(drafter="target:layers=0-1", drafter_device="cpu")
ON_ONE_GPU = Setting(drafter="beside:target:layers=0-1")
ON_TWO_GPUS = Setting(drafter="lookup", tp=2, modes="autoregressive")


@contextmanager
def random_model(shape: ModelShape, device: str) -> Iterator[Path]:
    """Write a random model and prompts of its words, and remove them at the end."""
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as name:
        directory = Path(name)
        config = shape.config
        generator = torch.Generator(device).manual_seed(0)
        tensors = {
            tensor: _numbers(tensor, size, generator).cpu()
            for tensor, size in tensor_shapes(config).items()
        }
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
        LlamaConfig(
            vocab_size=shape.vocab,
            hidden_size=shape.hidden,
            intermediate_size=shape.inner,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.kv,
            head_dim=shape.dim,
            max_position_embeddings=config.max_positions,
            rms_norm_eps=config.rms_norm_eps,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope.theta},
            tie_word_embeddings=config.tied_head,
            architectures=["LlamaForCausalLM"],
            eos_token_id=None,
            dtype="bfloat16",
        ).save_pretrained(directory)
        words = {f"w{token}": token for token in range(shape.vocab)}
        inner = tokenizers.Tokenizer(models.WordLevel(words, unk_token="w0"))
        inner.pre_tokenizer = pre_tokenizers.Whitespace()
        PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="w0").save_pretrained(directory)
        lines = [json.dumps({"prompt": " ".join(f"w{t}" for t in ids)}) for ids in _prompts(shape)]
        (directory / "prompts.jsonl").write_text("\n".join(lines) + "\n")
        yield directory


def pearl(setting: Setting, *, shape: ModelShape = SHAPE, max_tokens: int = 64) -> Figures:
    """Measure PEARL beside plain decoding, through the command line.

    Raises:
        AssertionError: the command fails, the outputs differ, or no draft was accepted.
    """
    with random_model(shape, setting.device) as directory:
        command = setting.command(directory, directory / "prompts.jsonl", max_tokens)
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            raise AssertionError(f"exit {done.returncode}: {_last_line(done.stderr)}")
        return pearl_figures(json.loads(_last_line(done.stdout))["rows"])


def pearl_figures(rows: Sequence[dict[str, object]]) -> Figures:
    """Return the figures of a comparison's rows; raise AssertionError as `pearl`."""
    figures: dict[str, float | str] = {}
    for row in rows:
        mode = str(row["mode"])
        if not row["identical"]:
            raise AssertionError(f"{mode} gives other tokens than {rows[0]['mode']}")
        names = ["tokens_per_s", "ratio_to_first"]
        if mode != "autoregressive":
            names += ["acceptance_rate", "overlap"]
            if not row["accepted"]:
                raise AssertionError(f"{mode} accepted none of {row['drafted']} drafts")
        figures |= {f"{mode} {name}": float(str(row[name])) for name in names}
    return figures


def two_gpus() -> Figures:
    """Measure a target that is split over two GPUs, whose ranks exchange over NCCL.

    Raises:
        NotHere: there is one GPU.
    """
    found = torch.cuda.device_count()
    if found < 2:
        raise NotHere(f"{found} GPU: two are needed for NCCL")
    return pearl(ON_TWO_GPUS)


def transformers(
    *, shape: ModelShape = SHAPE, device: str = "cuda", max_tokens: int = 64
) -> Figures:
    """Measure transformers' generate on the same model and prompts, one at a time."""
    with random_model(shape, device) as directory:
        engine = TransformersBaseline(str(directory), "bfloat16", device, os.cpu_count() or 1)
        prompts = _prompts(shape)
        engine.generate(prompts[:1], 4, None)  # loads kernels
        run = engine.generate(prompts, max_tokens, None)
    return {"tokens_per_s": len(prompts) * max_tokens / run.wall_s}


def _numbers(name: str, size: tuple[int, ...], generator: torch.Generator) -> Tensor:
    made = torch.empty(size, dtype=torch.bfloat16, device=generator.device)
    if "norm" in name:
        return made.fill_(1)
    made.normal_(generator=generator).div_(size[-1] ** 0.5)
    parts = name.split(".")
    is_later = parts[1] == "layers" and int(parts[2]) >= _FIRST_LAYERS
    adds = name.endswith(("o_proj.weight", "down_proj.weight"))
    return made.mul_(_LATER_SHARE) if is_later and adds else made


def _prompts(shape: ModelShape) -> list[tuple[int, ...]]:
    generator = torch.Generator().manual_seed(1)
    size = (_NUM_PROMPTS, _PROMPT_TOKENS)
    return [tuple(ids) for ids in torch.randint(shape.vocab, size, generator=generator).tolist()]


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no output"])[-1]
