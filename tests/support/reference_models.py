"""Random checkpoints of any family on disk, as transformers writes and computes them."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from parallel.group import SoloGroup
from runtime.models.weights import load_decoder
from tests.support.tiny_transformer import CPU, score


def make_model(fields: dict[str, object], *, own_head: bool) -> PreTrainedModel:
    """Return a random model; with `own_head`, its head is not the embedding whatever is stated."""
    config = AutoConfig.for_model(**json.loads(json.dumps(fields)))
    model = AutoModelForCausalLM.from_config(config).eval()
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator) * 0.2
            parameter.copy_(noise + 1 if "norm" in name else noise)
        if own_head:
            head = torch.randn(model.lm_head.weight.shape, generator=generator) * 0.2
            model.lm_head.weight = torch.nn.Parameter(head)
    return model


def save(model: PreTrainedModel, fields: dict[str, object], directory: Path, files: str) -> None:
    """Write a checkpoint with exactly these fields; `files` is "safetensors" or "sharded"."""
    model.save_pretrained(directory, max_shard_size="15KB" if files == "sharded" else "1GB")
    (directory / "config.json").write_text(json.dumps(fields))
    head, weights = "lm_head.weight", model.state_dict()
    if torch.equal(weights[head], weights["model.embed_tokens.weight"]):
        return
    index = directory / "model.safetensors.index.json"
    listed = json.loads(index.read_text()) if index.exists() else {"weight_map": {}}
    first = min(file.name for file in directory.glob("*.safetensors"))
    name = listed["weight_map"].setdefault(head, first)
    weights = load_file(directory / name) | {head: weights[head].detach()}
    save_file(weights, directory / name, {"format": "pt"})
    if index.exists():
        index.write_text(json.dumps(listed))


def logits(directory: Path, prompt: tuple[int, ...]) -> Tensor:
    """Return our logits after each token of a prompt."""
    return score(load_decoder(directory, SoloGroup(), weights="float32", device=CPU), prompt)


def expected(directory: Path, prompt: tuple[int, ...]) -> Tensor:
    """Return what transformers computes from the files themselves."""
    reference = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    with torch.inference_mode():
        found: Tensor = reference(torch.tensor([prompt]), use_cache=False).logits[0]
    return found
