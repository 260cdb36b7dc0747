"""Ray clusters of several raylets on this machine, each a process that looks like a node.

Their Python has what Paceline depends on, and Paceline itself only where a driver brings it.
"""

import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import ray

ROOT = Path(__file__).resolve().parents[3]
_START_S = 120
_RUN_S = 240
_STORE_BYTES = 80 << 20


class Raylets:
    """Started by `add_node`, the head first; use it as a context manager so that all end."""

    def __init__(self, *, dashboard: bool = False) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="paceline-ray-", dir="/tmp")  # sockets
        self._dashboard_port = free_port() if dashboard else 0
        self._nodes: list[subprocess.Popen[bytes]] = []
        programs = Path(self._folder.name) / "bin"
        programs.mkdir()
        self.python = str(programs / "python")
        Path(self.python).symlink_to(getattr(sys, "_base_executable", sys.executable))
        token = Path(self._folder.name) / "token"
        token.write_text(secrets.token_hex(16))
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("RAY_")},
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_raylet_start_wait_time_s": "120",
            "RAY_worker_niceness": "0",
            "RAY_USAGE_STATS_ENABLED": "0",
            "PATH": f"{programs}:{os.environ['PATH']}",
            # Named so, the folder's .pth files are not read: no editable install.
            "PYTHONPATH": str(Path(ray.__file__).parents[1]),
        }
        self.address = ""

    def __enter__(self) -> "Raylets":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def dashboard_url(self) -> str:
        """Where jobs are submitted."""
        return f"http://127.0.0.1:{self._dashboard_port}"

    def add_nodes(self, count: int) -> None:
        """Start the head, then the others, one by one: two that start at once fail to register."""
        for _ in range(count):
            self.add_node()

    def add_node(
        self, *, cpus: int = 1, host: str = "127.0.0.1", prefix: Sequence[str] = ()
    ) -> int:
        """Start a node, wait for it and return its pid; `prefix` may choose a network namespace."""
        self._start_node(cpus=cpus, host=host, prefix=prefix)
        self._await_node(len(self._nodes) - 1)
        return self._nodes[-1].pid

    def _start_node(self, *, cpus: int, host: str, prefix: Sequence[str]) -> None:
        # A session of its own: a node that fetches a job's upload deletes what is in its place.
        folder = Path(self._folder.name) / f"n{len(self._nodes)}"
        folder.mkdir()
        where = ["--address", self.address, "--temp-dir", str(folder)]
        if not self._nodes:
            port = free_port()
            self.address = f"{host}:{port}"
            where = ["--head", "--port", str(port), "--temp-dir", str(folder)]
            if self._dashboard_port:
                where += ["--include-dashboard=true", "--dashboard-host", "127.0.0.1"]
                where += ["--dashboard-port", str(self._dashboard_port)]
            else:
                where.append("--include-dashboard=false")
            where += ["--ray-client-server-port", str(free_port())]
        command = [self.python, "-m", "ray.scripts.scripts", "start", *where]
        command += ["--node-ip-address", host, "--num-cpus", str(cpus), "--num-gpus", "0"]
        command += ["--dashboard-agent-listen-port", str(free_port())]
        command += ["--min-worker-port", "0", "--max-worker-port", "0", "--block"]
        command += ["--object-store-memory", str(_STORE_BYTES), "--disable-usage-stats"]
        log = self._log(len(self._nodes))
        with log.open("wb") as sink:
            node = subprocess.Popen(
                [*prefix, *command],
                stdout=sink,
                stderr=subprocess.STDOUT,
                env=self.environment,
                cwd=self._folder.name,
                start_new_session=True,
            )
        self._nodes.append(node)

    def _await_node(self, number: int) -> None:
        log, deadline_s = self._log(number), time.monotonic() + _START_S
        while b"Ray runtime started" not in log.read_bytes():
            assert self._nodes[number].poll() is None, log.read_text()
            assert time.monotonic() < deadline_s, log.read_text()
            time.sleep(0.1)

    def _log(self, number: int) -> Path:
        return Path(self._folder.name) / f"node-{number}.log"

    def run(
        self,
        *arguments: str,
        module: str = "cluster.cli",
        prefix: Sequence[str] = (),
        code: int | None = 0,
        address: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run the command line, or another module, as a driver on the head's node.

        Args:
            arguments: of the module.
            module: what to run; "" runs Python itself.
            prefix: may choose a network namespace.
            code: the exit code that is expected; None takes any.
            address: what the environment names as the cluster; None is this one.
        """
        ours = {}
        if module == "cluster.cli":
            ours = {"RAY_ADDRESS": self.address if address is None else address}
        finished = subprocess.run(
            [*prefix, self.python, *(["-m", module] if module else []), *arguments],
            env=self.environment | ours,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=_RUN_S,
            check=False,
        )
        assert code in (None, finished.returncode), finished.stdout + finished.stderr
        return finished

    @property
    def pids(self) -> list[int]:
        """The nodes' process ids, in the order in which they were started."""
        return [node.pid for node in self._nodes]

    def processes(self) -> list[psutil.Process]:
        """Return every process of every node."""
        found = []
        for node in self._nodes:
            try:
                parent = psutil.Process(node.pid)
                found += [parent, *parent.children(recursive=True)]
            except psutil.NoSuchProcess:
                continue
        return found

    def close(self) -> None:
        """End the nodes, those that joined first; what does not end is killed."""
        everything = self.processes()
        for node in reversed(self._nodes):
            if node.poll() is None:
                node.send_signal(signal.SIGTERM)
        _, alive = psutil.wait_procs(everything, timeout=20)
        for process in alive:
            process.kill()
        for node in self._nodes:
            node.wait(timeout=20)
        self._nodes = []
        self._folder.cleanup()


def free_port() -> int:
    """Return a port that is free at the moment."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port
