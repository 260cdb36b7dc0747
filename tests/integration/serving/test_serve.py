"""`paceline serve` as its users run it: a process, clients, and SIGTERM under load."""

import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from queue import Queue

import pytest

from runtime.client import Client, Credentials, ServiceError
from runtime.errors import InvalidValue
from runtime.models.tokenizer import Tokenizer
from tests.support.models import check_identity, smollm2_directory

TOKEN = "a-token-of-this-test"


@dataclass
class Served:
    process: subprocess.Popen[str]
    address: str
    lines: "Queue[str]"


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    tokens = tmp_path / "tokens"
    tokens.write_text(TOKEN + "\n")
    command = ["env", "--default-signal=HUP"]  # under nohup, serve would ignore it
    command += [sys.executable, "-m", "cluster.cli", "serve", "--target", str(smollm2_directory())]
    process = subprocess.Popen(
        [
            *command,
            "--listen=127.0.0.1:0",
            "--set=models.threads=1",
            "--token-file",
            str(tokens),
        ],
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).resolve().parents[3],
    )
    lines: Queue[str] = Queue()

    def read() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            lines.put(line)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    printed = ""
    while "ready:" not in printed:
        printed = lines.get(timeout=120)
    found = re.search(r"on (127\.0\.0\.1:\d+)", printed)
    assert found, printed
    yield Served(process, found.group(1), lines)
    process.kill()
    process.wait(timeout=20)
    reader.join(timeout=5)
    assert process.stderr is not None
    process.stderr.close()


def test_clients_get_the_targets_tokens_and_a_hang_up_finishes_what_runs(served: Served) -> None:
    directory = smollm2_directory()
    prompt = "The planets of the solar system, in order from the sun, are"
    prompt_ids = tuple(Tokenizer.load(directory).encode(prompt))
    with Client(served.address) as stranger, pytest.raises(ServiceError, match="UNAUTHENTICATED"):
        stranger.model()
    with Client(served.address, credentials=Credentials(token=TOKEN)) as client:
        with pytest.raises(InvalidValue, match="`temperature` is -1"):
            list(client.generate(prompt, temperature=-1))
        chunks = list(client.generate(prompt, max_tokens=32, ignore_eos=True))
        tokens = tuple(token for chunk in chunks for token in chunk.token_ids)
        check_identity(directory, prompt_ids, tokens)
        assert len(tokens) == 32
        assert "".join(c.text for c in chunks) == Tokenizer.load(directory).decode(tokens)
        assert chunks[-1].stats is not None
        assert chunks[-1].stats.drafted > 0
        assert chunks[-1].stats.accepted > 0
        stopped = list(client.generate(prompt, max_tokens=32, stop=["Earth"]))
        assert "Earth" not in "".join(chunk.text for chunk in stopped)
        assert stopped[-1].finish_reason == "stop"
        stream = client.generate(prompt, max_tokens=48, ignore_eos=True)
        first = next(stream)
        served.process.send_signal(signal.SIGHUP)  # as SIGTERM
        rest = [first, *stream]
        assert sum(len(chunk.token_ids) for chunk in rest) == 48
        assert rest[-1].finish_reason == "length"
        assert served.process.wait(timeout=60) == 0
        with pytest.raises(ServiceError, match="UNAVAILABLE"):
            list(client.generate(prompt, patience_s=0))
