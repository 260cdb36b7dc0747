"""Random adapters of tiny models, as peft writes, computes and merges them."""

import shutil
import warnings
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import PreTrainedModel

from parallel.model.low_rank import PART_NAMES, AdaptedPart, Adapter, LowRank
from tests.support.tiny_transformer import TinyModel

ALPHA = 6
ALL_PARTS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def save_peft_adapter(
    base: PreTrainedModel, directory: Path, *, seed: int = 0, size: float = 0.3, **settings: Any
) -> PreTrainedModel:
    """Write an adapter whose every number is drawn; return the model that peft merges it into."""
    plain: dict[str, Any] = {
        "r": 4,
        "lora_alpha": ALPHA,
        "target_modules": ALL_PARTS,
        "task_type": "CAUSAL_LM",
    }
    with warnings.catch_warnings(action="ignore"):
        adapted = get_peft_model(deepcopy(base), LoraConfig(**(plain | settings)))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for weight in adapted.parameters():
                if weight.requires_grad:
                    weight.copy_(torch.randn(weight.shape, generator=generator) * size)
        shutil.rmtree(directory, ignore_errors=True)
        adapted.save_pretrained(str(directory))
        merged: PreTrainedModel = PeftModel.from_pretrained(
            deepcopy(base), str(directory)
        ).merge_and_unload()
    return merged.eval()


def random_adapter(
    model: TinyModel, directory: Path, **settings: Any
) -> tuple[Adapter, PreTrainedModel]:
    """Write an adapter, and return it as we read it, and the model that peft merges it into."""
    merged = save_peft_adapter(model.reference, directory, **settings)
    tensors = load_file(directory / "adapter_model.safetensors")
    scale = ALPHA / settings.get("r", 4)
    layers: list[dict[AdaptedPart, LowRank]] = []
    for index in range(model.config.num_layers):
        layers.append({})
        for part, name in PART_NAMES.items():
            prefix = f"base_model.model.model.layers.{index}.{name}"
            if f"{prefix}.lora_A.weight" in tensors:
                layers[index][part] = LowRank(
                    tensors[f"{prefix}.lora_A.weight"], tensors[f"{prefix}.lora_B.weight"] * scale
                )
    return Adapter(name=directory.name, layers=tuple(layers)), merged
