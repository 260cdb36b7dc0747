"""The shape of an 8B model, with two of its layers, on a worker of two ranks with an int4 base."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from cluster.train.progress import StepDisplay
from parallel.model.shapes import tensor_shapes
from runtime.models.checkpoint_files import read_model_config
from runtime.training.job.config_file import load_config
from runtime.training.planning.job_plan import plan_job
from runtime.training.training_step import StepReport
from tests.support.integration.training_jobs import adapter, train, watch_pids
from tests.support.tiny_checkpoint import save_tiny_checkpoint

LLAMA_8B: dict[str, object] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 2,  # of 32
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "tie_word_embeddings": False,
}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


def write_model(directory: Path) -> Path:
    """Write random weights in bfloat16, a file for each tensor, and a tokenizer of words."""
    save_tiny_checkpoint(directory)
    (directory / "model.safetensors").unlink()
    (directory / "config.json").write_text(json.dumps(LLAMA_8B))
    draw, files = torch.Generator().manual_seed(0), {}
    for number, (name, shape) in enumerate(tensor_shapes(read_model_config(directory)).items()):
        files[name] = f"model-{number:05}.safetensors"
        noise = torch.empty(shape, dtype=torch.bfloat16)
        noise.normal_(1.0 if len(shape) == 1 else 0.0, 0.02, generator=draw)
        save_file({name: noise}, directory / files[name], {"format": "pt"})
    index = {"metadata": {}, "weight_map": files}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    return directory


def anonymous_bytes(pid: int) -> int:
    """Return the memory of a process that no file backs."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) * 1024


def test_it_learns_within_the_memory_of_its_plan(
    tmp_path: Path,
    ray_session: None,  # noqa: ARG001  (it must be up)
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = write_model(tmp_path / "model")
    words = [{"prompt": f"w{n} w{n + 1}", "completion": f" w{n + 2}"} for n in range(8)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(word) + "\n" for word in words))
    file = tmp_path / "job.toml"
    file.write_text(
        f'model = "{model}"\nout = "run"\nbase_precision = "int4"\n'
        '[data]\ntrain = "data.jsonl"\nmax_length = 16\n[lora]\ntargets = ["q_proj", "down_proj"]\n'
        "[optimizer]\nsteps = 3\nbatch = 2\nmicrobatch = 1\nlr = 0.01\nwarmup = 0.0\n"
        "[workers]\ncount = 1\ntp = 2\nlost_after_s = 900.0\n[watch]\ntensorboard = false\n"
    )
    pids = watch_pids(monkeypatch)
    held: list[int] = []
    show = StepDisplay.step

    def measure(self: StepDisplay, report: StepReport) -> None:
        show(self, report)
        held.append(anonymous_bytes(pids[0]))

    monkeypatch.setattr(StepDisplay, "step", measure)
    out = train(file)
    losses = [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert len(losses) == 3
    assert all(5 < loss < 25 for loss in losses)
    assert any(abs(one).max() > 0 for name, one in adapter(out).items() if "lora_B" in name)
    plan = plan_job(model, load_config(file))
    weights = plan.worker["base weights"]
    assert weights < 1.0 * 1024**3  # of 3 GB in bfloat16
    assert weights < max(held) < plan.worker_bytes + 1.0 * 1024**3  # which leaves libraries out
