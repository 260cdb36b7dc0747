"""What the command line offers beside `serve`: its configuration file, bench, top and admin."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.integration.serving_process import ROOT, ServingProcess
from tests.support.tiny_checkpoint import save_tiny_checkpoint

NUM = 12


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServingProcess]:
    """One for all tests, which ends as an administrator's drain ends it."""
    folder: Path = tmp_path_factory.mktemp("serve")
    config = folder / "serve.toml"
    config.write_text('max_open = 40\nlog_format = "json"\nmetrics = "127.0.0.1:0"\n')
    process = ServingProcess(
        save_tiny_checkpoint(folder / "tiny"), ["--config", str(config), "--set", "max_tokens=9"]
    )
    yield process
    try:
        assert paceline("admin", "drain", "--server", process.address).returncode == 0
        assert process.process.wait(timeout=60) == 0
        gone = paceline("top", "--once", "--server", process.address)
        assert gone.returncode == 1
        assert "UNAVAILABLE" in gone.stderr
    finally:
        process.close()


def paceline(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cluster.cli", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_a_load_is_measured_in_every_mode(served: ServingProcess, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    lines = (json.dumps({"prompt": f"w{n} w5 w6 w7 w5 w6 w7"}) for n in range(NUM))
    prompts.write_text("\n".join(lines))
    plot = tmp_path / "load.png"
    done = paceline(
        *("bench", "serve", "--server", served.address, "--prompts", str(prompts), "--json"),
        *("--modes", "autoregressive,auto", "--clients", "3", "--rate", "40", "--plot", str(plot)),
    )
    assert done.returncode == 0, done.stderr
    loads = [json.loads(line) for line in done.stdout.splitlines()]
    assert [load["mode"] for load in loads] == ["autoregressive", "auto"]
    for load in loads:
        assert (load["requests"], load["completed"]) == (NUM, NUM)
        assert (load["rejected"], load["failed"]) == (0, 0)
        assert load["tokens_per_s"] > 0
        p50, p90, p99 = load["ttft_s"]
        assert 0 < p50 <= p90 <= p99
    assert loads[0]["acceptance"] == 0
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_what_is_rejected_is_counted(served: ServingProcess, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(json.dumps({"prompt": "w1 w2 w3"}))
    done = paceline(
        *("bench", "serve", "--server", served.address, "--prompts", str(prompts), "--json"),
        *("--clients", "60", "--requests", "60", "--max-tokens", "400"),
    )
    assert done.returncode == 0, done.stderr
    load = json.loads(done.stdout)
    assert load["rejected"] > 0
    assert load["completed"] >= 40
    assert load["completed"] + load["rejected"] == 60


def test_top_and_admin_show_and_change_the_server(served: ServingProcess) -> None:
    client = paceline("client", "w1 w2", "--server", served.address, "--json")
    assert len(json.loads(client.stdout)["token_ids"]) == 9  # the command line's default
    top = paceline("top", "--once", "--json", "--interval", "0.2", "--server", served.address)
    seen = json.loads(top.stdout)
    assert (seen["state"], seen["max_open_requests"]) == ("ready", 40)  # the file's
    assert seen["tokens"] > 0
    assert "ready" in paceline("top", "--once", "--server", served.address).stdout
    changed = paceline("admin", "drafter", "ngram", "--server", served.address)
    assert changed.stdout.strip() == "drafter: ngram"
    rejected = paceline("admin", "drafter", "nothing", "--server", served.address)
    assert rejected.returncode == 2
    assert "nothing does not exist" in rejected.stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("listn = 1", "unknown key listn; did you mean listen?"),
        ("listen = ", "not TOML"),
        ('listen = "nowhere"', "--listen is 'nowhere': write HOST:PORT"),
        ('log_format = "xml"', "serve.toml: log_format is 'xml': choose one of text, json"),
        ('metrics = "9400"', "--set metrics is '9400': write HOST:PORT"),
    ],
)
def test_a_bad_configuration_is_rejected_at_once(tmp_path: Path, text: str, words: str) -> None:
    config = tmp_path / "serve.toml"
    config.write_text(text)
    done = paceline("serve", "--target", "smollm2-135m", "--config", str(config))
    assert done.returncode == 2
    assert words in done.stderr
