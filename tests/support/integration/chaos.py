"""A served tiny model under attack: what the tests of losses share."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from queue import Queue
from typing import Any

import psutil

from runtime.client import Client
from tests.support.integration.serving_process import ROOT
from tests.support.integration.wires import Relay

_START_S = 180
NUM_CLIENTS = 8


class ChaosServer:
    """A `paceline serve` process (see chaos_server.py) behind a relay, restarted when killed."""

    def __init__(
        self,
        checkpoint: Path,
        options: Sequence[str] = (),
        *,
        target_ms: int = 40,
        draft_ms: int = 10,
        row_ms: int = 0,
        wired: bool = True,
    ) -> None:
        """Start it; with `wired`, its links go through relays."""
        self.clients, self.driver, self.drafter = Relay(), Relay(), Relay()
        self._ports = [_free_port(), _free_port()]
        command = [sys.executable, "-m", "tests.support.integration.chaos_server"]
        wires = (self.driver.port, self.drafter.port) if wired else (0, 0)
        numbers = [target_ms, draft_ms, row_ms, *wires]
        serve = ["serve", "--target", str(checkpoint), "--set", "models.threads=1"]
        listen, leader = self._ports
        self._command = [
            *command,
            *map(str, numbers),
            *serve,
            "--listen",
            f"127.0.0.1:{listen}",
            *(("--set", f"models.place.port={leader}") if wired else ()),
            *options,
        ]
        self.clients.target = ("127.0.0.1", listen)
        self.driver.target = self.drafter.target = ("127.0.0.1", leader)
        self.printed: list[str] = []
        self.process = self._start()

    @property
    def address(self) -> str:
        """Where clients go."""
        return self.clients.address

    def start_again(self) -> None:
        """Start another process in place of one that has ended."""
        self.process.wait(timeout=30)
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process = self._start()

    def strike(self, **command: Any) -> dict[str, Any]:
        """Make the process hit one of its ranks; see chaos_server.py."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        printed = ""
        while not printed.startswith("{"):  # Ray prints lines, too
            printed = self._answers.get(timeout=60)
        answer: dict[str, Any] = json.loads(printed)
        assert "error" not in answer, (answer, self.printed[-30:])
        return answer

    def family(self) -> list[psutil.Process]:
        """Return the process and all it has started."""
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(self.process.pid)
            return [process, *process.children(recursive=True)]
        return []

    def memory_bytes(self) -> int:
        """Return the memory of the process and of all it has started."""
        total = 0
        for process in self.family():
            with suppress(psutil.NoSuchProcess):
                total += process.memory_info().rss
        return total

    def close(self) -> None:
        """End everything; nothing may be left."""
        family = self.family()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(timeout=20)
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        for relay in (self.clients, self.driver, self.drafter):
            relay.close()
        await_end(family)

    def _start(self) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        self._answers: Queue[str] = Queue()
        told: Queue[str] = Queue()
        for stream, lines in ((process.stdout, self._answers), (process.stderr, told)):
            threading.Thread(target=self._read, args=(stream, lines), daemon=True).start()
        deadline = time.monotonic() + _START_S
        printed = ""
        while "ready:" not in printed:
            printed = told.get(timeout=max(1.0, deadline - time.monotonic()))
        return process

    def _read(self, stream: Any, lines: "Queue[str]") -> None:
        with stream:
            for line in stream:
                self.printed.append(line)
                lines.put(line)


def await_end(family: Sequence[psutil.Process], seconds: float = 90.0) -> None:
    """Wait until none of these processes is left.

    Where a local Ray is killed as a whole, its agents look for it for a minute before they end.
    """
    deadline = time.monotonic() + seconds
    while left := [process for process in family if is_alive(process)]:
        assert time.monotonic() < deadline, f"left behind: {left}"
        time.sleep(0.1)


def is_alive(process: psutil.Process) -> bool:
    """Return whether a process runs."""
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


def prompt_of(number: int) -> list[int]:
    """Return a client's prompt: some are long, so that reading them takes rounds of its own."""
    return [*([5, 6, 7, 8] * (4 + 12 * (number % 3))), number % 90, 9]


def generate(
    address: str, number: int, max_tokens: int, on_tokens: Callable[[int], None] = lambda _: None
) -> list[int]:
    """Return a client's tokens; greedy, sampled, and in every mode, by its number."""
    tokens: list[int] = []
    ends = 0
    with Client(address) as client:
        for chunk in client.generate(
            prompt_of(number),
            max_tokens=max_tokens,
            temperature=0.0 if number % 2 else 0.7,
            seed=number,
            mode=("pearl", "speculative", "auto")[number % 3],
            timeout_s=300,  # a restart takes a minute, on a busy machine two
        ):
            tokens += chunk.token_ids
            ends += chunk.finish_reason is not None
            on_tokens(len(chunk.token_ids))
    assert ends == 1
    return tokens


def start_clients(
    pool: ThreadPoolExecutor, address: str, max_tokens: int
) -> list[Future[list[int]]]:
    """Start the requests of all clients at once."""
    return [pool.submit(generate, address, n, max_tokens) for n in range(NUM_CLIENTS)]


def kill(pid: int) -> None:
    """Kill a process."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
