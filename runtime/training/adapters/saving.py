"""Writes training results: adapters for peft, whole models for transformers."""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from parallel.training.adamw import Vector
from runtime.files.strict_json import read_json_object
from runtime.files.vector_file import write_vectors
from runtime.training.job.job_config import LoraConfig

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
)
"""Files of a tokenizer: all of one directory's, or all of another's."""
_COPIED = (".json", ".jinja", ".txt", ".model", ".py")
"""Suffixes of the files that belong to a model in addition to its weights."""
_TEMPLATES = "additional_chat_templates"
FINAL = "final"
"""The result of a finished job, in its directory."""
_STEP = re.compile(r"step-(\d{6,})")


def save_adapter(
    directory: Path, weights: Mapping[str, Vector], lora: LoraConfig, base: str
) -> None:
    """Write an adapter as `peft` loads it (adapter_config.json, adapter_model.safetensors).

    Args:
        directory: directory to write; replaced as a whole.
        weights: as `add_lora` names them.
        lora: the adapter's settings.
        base: the model that the adapter belongs to.
    """
    fresh = directory.with_name(directory.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    tensors = {tensor_name(name): value for name, value in weights.items()}
    write_vectors(fresh / "adapter_model.safetensors", tensors, {"format": "pt"})
    settings = adapter_settings(lora, base)
    text = json.dumps(settings, indent=2) + "\n"
    (fresh / "adapter_config.json").write_text(text, encoding="utf-8")
    shutil.rmtree(directory, ignore_errors=True)
    fresh.replace(directory)


def tensor_name(weight: str) -> str:
    """Return the name that peft gives to one of an adapter's weights in a file."""
    is_length = weight.endswith(".lora_magnitude_vector")
    return f"base_model.model.{weight}{'' if is_length else '.weight'}"


def adapter_settings(lora: LoraConfig, base: str) -> dict[str, object]:
    """Return the adapter_config.json of an adapter."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "use_rslora": lora.rank_stabilized,
        "use_dora": lora.dora,
        "rank_pattern": lora.rank_pattern,
        "alpha_pattern": lora.alpha_pattern,
        "target_modules": sorted(lora.targets),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }


def save_whole(
    directory: Path,
    weights: Mapping[str, Vector],
    base: Path,
    *,
    has_tied_head: bool | None,
    tokenizer: Path | None = None,
) -> None:
    """Write a whole model in Hugging Face format, with the settings of `base`.

    Args:
        directory: directory to write; replaced as a whole.
        weights: all of the model's, by name; a tied head is left out.
        base: the directory that the model was loaded from.
        has_tied_head: whether the head is the embedding; None if training cannot have changed it.
        tokenizer: the directory of its tokenizer; None takes that of `base`.
    """
    fresh = directory.with_name(directory.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    for file in base.iterdir():
        if (
            file.suffix in _COPIED
            and file.name not in TOKENIZER_FILES
            and not file.name.endswith(".index.json")
        ):
            shutil.copyfile(file, fresh / file.name)
    source = base if tokenizer is None else tokenizer
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, fresh / name)
    if (source / _TEMPLATES).is_dir():
        shutil.copytree(source / _TEMPLATES, fresh / _TEMPLATES)
    settings = whole_settings(base, has_tied_head=has_tied_head)
    text = json.dumps(settings, indent=2) + "\n"
    (fresh / "config.json").write_text(text, encoding="utf-8")
    write_vectors(fresh / "model.safetensors", weights, {"format": "pt"})
    shutil.rmtree(directory, ignore_errors=True)
    fresh.replace(directory)


def whole_settings(base: Path, *, has_tied_head: bool | None) -> dict[str, object]:
    """Return the config.json of a whole model, from that of its base."""
    settings = read_json_object(base / "config.json")
    settings.pop("torch_dtype", None)  # its former name
    settings.pop("quantization_config", None)  # of the base's weights
    if has_tied_head is not None:
        settings["tie_word_embeddings"] = has_tied_head
    settings["dtype"] = "float32"  # the dtype of these weights, not of the base
    return settings


def step_name(step: int) -> str:
    """Return the name of the adapter after a step."""
    return f"step-{step:06d}"


def results_of(job: Path) -> list[Path]:
    """Return the results in a job's directory, the newest first; those being written are not.

    Raises:
        OSError: the directory cannot be read.
    """
    steps = [(int(m[1]), file) for file in job.iterdir() if (m := _STEP.fullmatch(file.name))]
    final = [job / FINAL] if (job / FINAL).is_dir() else []
    return final + [file for _, file in sorted(steps, reverse=True)]


def drop_old_adapters(directory: Path, keep: int | None) -> None:
    """Remove all adapters of steps but the last `keep`; None keeps all."""
    steps = [file for file in results_of(directory) if file.name != FINAL]
    for old in steps[keep or len(steps) :]:
        shutil.rmtree(old)
