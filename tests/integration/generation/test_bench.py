"""The bench verbs that deploy engines, in one Ray: on virtual devices and on a tiny model."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cluster.cli.main import app
from tests.support.tiny_checkpoint import save_byte_checkpoint, save_tiny_checkpoint

pytestmark = pytest.mark.usefixtures("ray_session")

LLAMA_BINDING = Path(__file__).resolve().parents[2] / "support" / "llama_binding"
LAYERS = "target=4ms,layers=8,attention=0.2ms,mlp=0.1ms,alpha=0.8,vocab=64"


def bench(*arguments: str) -> dict[str, Any]:
    """Return what a verb prints as JSON."""
    done = CliRunner().invoke(app, ["bench", *arguments, "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_modes_are_compared_and_an_interrupted_run_measures_nothing_twice(tmp_path: Path) -> None:
    arguments: tuple[str, ...] = ("decode", "--virtual", "target=4ms,draft=1ms,alpha=0.8,vocab=64")
    arguments += ("--repeats", "1", "--max-tokens", "16", "--draft-length", "3")
    arguments += ("--set", f"keep={tmp_path / 'runs.jsonl'}")
    first = bench(*arguments)
    rows = first["rows"]
    assert [row["mode"] for row in rows] == ["autoregressive", "speculative", "pearl"]
    assert all(row["identical"] for row in rows)
    assert rows[0]["drafted"] == 0
    for row in rows[1:]:
        assert row["accepted"] > 0
        assert row["predicted_tokens_per_s"] > rows[0]["predicted_tokens_per_s"]
    assert bench(*arguments)["rows"] == rows  # the figures of the file


def test_layers_at_a_time_are_compared_on_several_ranks(tmp_path: Path) -> None:
    plot = tmp_path / "layers.png"
    arguments = ("layer-parallel", "--virtual", LAYERS, "--widths", "1,4", "--drafter-tp", "1,2")
    found = bench(*arguments, "--max-tokens", "12", "--draft-length", "3", "--plot", str(plot))
    rows = found["rows"]
    assert [(row["drafter_tp"], row["layer_parallel"]) for row in rows] == [
        (1, 1),
        (1, 4),
        (2, 1),
        (2, 4),
    ]
    assert [row["attention_depth"] for row in rows] == [8, 2, 8, 2]
    assert all(row["identical"] for row in rows)
    assert all(row["drafted"] > 0 for row in rows)
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_constrained_decoding_is_compared_with_plain_decoding(tmp_path: Path) -> None:
    target, tasks = save_byte_checkpoint(tmp_path / "model"), tmp_path / "tasks.jsonl"
    properties: dict[str, object] = {
        "is_a_fox": {"type": "boolean"},
        "is_quick_or_lazy": {"enum": ["quick", "lazy"]},
    }
    schema: dict[str, object] = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
    }
    schema |= {"additionalProperties": False, "x-guidance": {"whitespace_flexible": False}}
    lines = [{"prompt": f"the fox {n}", "json_schema": schema} for n in range(2)]
    tasks.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = bench(
        *("constraints", "--target", str(target), "--drafter", "lookup", "--tasks", str(tasks)),
        *("--repeats", "1", "--threads", "1", "--max-tokens", "60", "--set", "chat=false"),
    )
    _, constrained, automatic = found["rows"]
    assert constrained["tokens_per_round"] == 1
    assert automatic["tokens_per_round"] > 2
    assert automatic["identical"]
    costs = found["costs"]
    assert costs["complete"] == costs["outputs"] == 2
    assert costs["constraints"] == 1
    assert costs["masks"] > 20


def test_engines_are_compared_on_the_same_prompts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = save_tiny_checkpoint(tmp_path / "model")
    gguf, prompts, out = tmp_path / "toy.gguf", tmp_path / "prompts.jsonl", tmp_path / "out.json"
    gguf.write_bytes(b"GGUF")
    texts = ["w3 w1 w4 w1 w5 w9 w2 w6", "w2 w7 w1 w8 w2 w8"]
    prompts.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    contenders = "llama.cpp,llama.cpp:lookup=4,transformers,autoregressive,speculative:lookup"
    monkeypatch.setenv("PYTHONPATH", str(LLAMA_BINDING))  # a toy in place of llama.cpp
    arguments = ["engines", "--target", str(target), "--contenders", contenders]
    arguments += ["--prompts", str(prompts), "--max-tokens", "40", "--repeats", "2"]
    arguments += ["--llama-python", sys.executable, "--set", f"gguf={gguf}", "--threads", "1"]
    arguments += ["--set", "prefill_tokens=30", "--keep", str(tmp_path / "runs.jsonl")]
    found = bench(*arguments, "--out", str(out))
    rows = {row["contender"]: row for row in found["rows"]}
    assert list(rows) == contenders.split(",")
    for name in ("transformers", "autoregressive", "speculative:lookup"):
        assert rows[name]["same"] == rows[name]["prompts"] == 2, found["differences"]
    assert rows["speculative:lookup"]["acceptance_rate"] > 0
    assert (
        rows["speculative:lookup"]["tokens_per_round"] > rows["autoregressive"]["tokens_per_round"]
    )
    assert rows["llama.cpp"]["same"] == 0  # the toy is another model, sure of its tokens
    assert rows["llama.cpp"]["largest_margin"] > 1
    for row in rows.values():
        assert row["ratio_to_llama_cpp"] > 0
        assert row["ratio_to_transformers"] > 0
        assert 0 < row["ttft_s"] < 60
        assert row["prefill_tokens_per_s_min"] > 0
        assert row["memory_mib"] > 1
    assert found["engines"]["llama.cpp"]["llama_cpp_python"] == "0.0-toy"
    assert found["environment"]["cpu"]
    assert json.loads(out.read_text()) == found
    again = bench(*arguments)  # the figures of the file
    assert [row["tokens_per_s"] for row in again["rows"]] == [
        row["tokens_per_s"] for row in found["rows"]
    ]
