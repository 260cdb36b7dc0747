"""One suite for every Group: in threads, and in processes that serve many tests each.

Run as a script this file is such a process: it reads one task a line and answers with one line.
"""

import hashlib
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from parallel.group import Group
from runtime.errors import (
    ConfigError,
    PeerError,
    PeerLost,
    PeerTimeout,
    ProtocolError,
    ShapeError,
)
from runtime.groups.rendezvous import GroupSpec, choose_backend, join_group, offer_group
from runtime.groups.shared_memory import FOLDER, SharedMemoryGroup, new_name
from runtime.groups.threads import ThreadGroup

ROOT = Path(__file__).resolve().parent.parent.parent
TIMEOUT_S = 20.0
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.int64)
SHAPES = ((1,), (576,), (3, 0), (5, 7), (700, 1000))  # the last is larger than a slot
PAYLOADS = (b"", b"0123456789", bytes(range(256)) * 4096, b"x" * 4088, b"y" * (1 << 21))

Scenario = Callable[[Group], list[str]]


def sums(group: Group) -> list[str]:
    """Return a digest of the sum for every dtype and shape; checks the values too."""
    digests = []
    for dtype in DTYPES:
        for shape in SHAPES:
            tensor = part(group.rank, shape, dtype)
            assert group.all_reduce(tensor) is tensor
            wanted = sum(part(rank, shape, dtype).double() for rank in range(group.size))
            assert isinstance(wanted, Tensor)
            torch.testing.assert_close(tensor.double(), wanted, rtol=2e-2, atol=2e-2)
            digests.append(digest(tensor))
    return digests


def strided_sums(group: Group) -> list[str]:
    """Sum a tensor that is not contiguous, with and without gradients."""
    tensor = torch.full((4, 6), float(group.rank + 1))
    group.all_reduce(tensor.t()[1:3])
    total = group.size * (group.size + 1) / 2
    assert tensor[:, 1:3].eq(total).all()
    assert tensor[:, 0].eq(group.rank + 1).all()
    weights = torch.ones(3, requires_grad=True)
    group.all_reduce(weights)
    assert weights.tolist() == [float(group.size)] * 3
    with torch.inference_mode():
        assert group.all_reduce(torch.ones(3)).tolist() == [float(group.size)] * 3
    return []


def gathers(group: Group) -> list[str]:
    """Gather every dtype and shape; row r must be rank r's tensor."""
    for dtype in DTYPES:
        for shape in SHAPES:
            gathered = group.all_gather(part(group.rank, shape, dtype))
            assert gathered.shape == (group.size, *shape)
            for rank in range(group.size):
                assert torch.equal(gathered[rank], part(rank, shape, dtype))
    return []


def broadcasts(group: Group) -> list[str]:
    """Broadcast payloads of all lengths, with sums between them."""
    for payload in PAYLOADS:
        assert group.broadcast_bytes(payload if group.rank == 0 else None) == payload
        assert group.all_reduce(torch.ones(2)).tolist() == [float(group.size)] * 2
    return []


def mixtures(group: Group) -> list[str]:
    """Run many short operations, the ranks at different speeds."""
    for step in range(200):
        if step % 50 == group.rank:
            time.sleep(0.01)
        assert group.all_reduce(torch.full((8,), float(step))).tolist() == [step * group.size] * 8
        sent = step.to_bytes(2, "little")
        assert group.broadcast_bytes(sent if group.rank == 0 else None) == sent
    return []


def idles(group: Group) -> list[str]:
    """Do nothing for longer than rank 0 waits."""
    if group.rank:
        time.sleep(3.5)
    else:
        start = time.monotonic()
        with pytest.raises(PeerTimeout, match=r"target rank 1 \(.*did not answer within 2 s"):
            group.all_reduce(torch.ones(4))
        assert time.monotonic() - start < 3.0
    return []


def leaves(group: Group) -> list[str]:
    """Close rank 1 while rank 0 waits for it."""
    if group.rank:
        time.sleep(0.05)
        group.close()
    else:
        with pytest.raises(PeerLost, match=r"target rank 1 \("):
            group.all_reduce(torch.ones(4))
    return []


SCENARIOS: dict[str, Scenario] = {
    scenario.__name__: scenario
    for scenario in (sums, strided_sums, gathers, broadcasts, mixtures, idles, leaves)
}


def part(rank: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Return the tensor of one rank: values whose sum depends on the order of addition."""
    numbers = torch.Generator().manual_seed(rank + 1)
    return (torch.randn(shape, generator=numbers) * 7).to(dtype)


def digest(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.view(-1).view(torch.uint8).numpy().tobytes()).hexdigest()


class RankProcess:
    """A process that plays one rank after another."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.num_tasks = 0

    def wait_until_ready(self) -> None:
        """Wait until torch is imported: the deadlines of the tests are shorter than that."""
        assert self.read()["number"] == 0

    def start(self, spec: GroupSpec, rank: int, scenario: str) -> None:
        assert self.process.stdin is not None
        self.num_tasks += 1
        number = self.num_tasks
        task = {"number": number, "spec": asdict(spec), "rank": rank, "scenario": scenario}
        self.process.stdin.write(json.dumps(task).encode() + b"\n")
        self.process.stdin.flush()

    def result(self) -> list[str]:
        while (answer := self.read())["number"] != self.num_tasks:
            pass  # the answer to a test that failed before it asked
        assert answer["error"] is None, answer["error"]
        digests: list[str] = answer["digests"]
        return digests

    def read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the process died"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def stop(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def processes() -> Iterator[list[RankProcess]]:
    pool = [RankProcess() for _ in range(2)]
    for process in pool:
        process.wait_until_ready()
    yield pool
    for process in pool:
        process.stop()


@pytest.fixture(params=["thread", "shm in threads", "shm", "gloo"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def run(
    kind: str, size: int, scenario: str, processes: list[RankProcess], timeout_s: float = TIMEOUT_S
) -> list[list[str]]:
    """Run a scenario on all ranks and return what each returned."""
    if kind == "thread":
        return in_threads(list(ThreadGroup.make(size, timeout_s)), scenario)
    if kind == "shm in threads":
        name = new_name()
        with ThreadPoolExecutor(size) as pool:
            members = [
                pool.submit(make_shared, name, rank, size, timeout_s) for rank in range(size)
            ]
            groups: list[Group] = [member.result() for member in members]
        return in_threads(groups, scenario)
    offer = offer_group("target", size, backend=kind, timeout_s=timeout_s)
    for rank in range(1, size):
        processes[rank - 1].start(offer.spec, rank, scenario)
    group = offer.join()
    try:
        results = [SCENARIOS[scenario](group)]
        results += [processes[rank - 1].result() for rank in range(1, size)]
    finally:
        group.close()
    assert not offer.spec.name or not (FOLDER / offer.spec.name).exists()
    return results


def make_shared(name: str, rank: int, size: int, timeout_s: float) -> SharedMemoryGroup:
    if rank == 0:
        return SharedMemoryGroup.create(
            name, size, timeout_s=timeout_s, role="target", slot_bytes=1 << 16
        )
    return SharedMemoryGroup.attach(name, rank, size, timeout_s=timeout_s, role="target")


def in_threads(groups: list[Group], scenario: str) -> list[list[str]]:
    with ThreadPoolExecutor(len(groups)) as pool:
        results = list(pool.map(SCENARIOS[scenario], groups))
    for group in groups:
        group.close()
        group.close()
    return results


@pytest.mark.parametrize("size", [1, 2, 3])
def test_sums_are_right_and_bit_equal_on_all_ranks(
    kind: str, size: int, processes: list[RankProcess]
) -> None:
    results = run(kind, size, "sums", processes)
    assert len(results) == size
    assert all(result == results[0] for result in results)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_all_gather_returns_the_rows_in_rank_order(
    kind: str, size: int, processes: list[RankProcess]
) -> None:
    run(kind, size, "gathers", processes)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_payloads_of_any_length_reach_every_rank(
    kind: str, size: int, processes: list[RankProcess]
) -> None:
    run(kind, size, "broadcasts", processes)


@pytest.mark.parametrize("scenario", ["strided_sums", "mixtures"])
def test_ranks_stay_in_step(kind: str, scenario: str, processes: list[RankProcess]) -> None:
    run(kind, 2, scenario, processes)


def test_a_rank_that_does_not_answer_is_named(kind: str, processes: list[RankProcess]) -> None:
    run(kind, 2, "idles", processes, timeout_s=2.0)


def test_a_rank_that_closes_is_lost_at_once(kind: str, processes: list[RankProcess]) -> None:
    start = time.monotonic()
    run(kind, 2, "leaves", processes)
    assert time.monotonic() - start < 10.0


@pytest.mark.parametrize("backend", ["shm", "gloo"])
def test_a_killed_rank_is_lost_within_seconds(backend: str) -> None:
    victim = RankProcess()
    offer = offer_group("target", 2, backend=backend, timeout_s=60.0)
    victim.start(offer.spec, 1, "idles")
    group = offer.join()
    try:
        killing = threading.Timer(0.3, victim.process.send_signal, (signal.SIGKILL,))
        killing.start()
        start = time.monotonic()
        wanted = rf"target rank 1 \(pid {victim.process.pid}.*is gone"
        with pytest.raises(PeerLost, match=wanted):
            group.all_reduce(torch.ones(4))
        assert time.monotonic() - start < 5.0
        killing.join()
    finally:
        group.close()
        victim.stop()


@pytest.mark.parametrize("backend", ["shm", "gloo"])
def test_a_rank_that_never_comes_is_named_and_leaves_nothing(backend: str) -> None:
    offer = offer_group("target", 2, backend=backend, timeout_s=0.3)
    with pytest.raises(PeerTimeout, match="target rank 1"):
        offer.join()
    assert not offer.spec.name or not (FOLDER / offer.spec.name).exists()


@pytest.mark.parametrize("backend", ["shm", "gloo"])
def test_a_leader_that_never_comes_is_noticed(backend: str) -> None:
    spec = GroupSpec(
        backend=backend,
        role="target",
        size=2,
        timeout_s=0.3,
        name=new_name(),
        host="127.0.0.1",
        port=1,
    )
    with pytest.raises(PeerError, match=r"0\.3 s"):
        join_group(spec, 1)


def test_a_rank_without_the_secret_is_named() -> None:
    offer = offer_group("target", 2, backend="gloo", timeout_s=5)
    with ThreadPoolExecutor(1) as pool:
        stranger = pool.submit(join_group, replace(offer.spec, secret="guessed"), 1)
        with pytest.raises(ProtocolError, match=r"target rank 1 .* does not know this group's"):
            offer.join()
        with pytest.raises(ProtocolError, match=r"target rank 0 .* does not know this group's"):
            stranger.result(timeout=10)


def test_ranks_at_different_operations_are_reported() -> None:
    groups = ThreadGroup.make(2, TIMEOUT_S)
    name = new_name()
    with ThreadPoolExecutor(2) as pool:
        members = [pool.submit(make_shared, name, rank, 2, TIMEOUT_S) for rank in range(2)]
        shared: list[Group] = [member.result() for member in members]
        for pair in (list[Group](groups), shared):
            calls = [
                pool.submit(pair[0].all_reduce, torch.ones(3)),
                pool.submit(pair[1].all_reduce, torch.ones(4)),
            ]
            for call in calls:
                with pytest.raises(ShapeError, match="different operations"):
                    call.result()
    for group in (*groups, *shared):
        group.close()


@pytest.mark.parametrize(
    ("backend", "size", "timeout_s"), [("mpi", 2, 1.0), ("solo", 2, 1.0), ("shm", 2, 0.0)]
)
def test_a_group_that_cannot_be_is_rejected(backend: str, size: int, timeout_s: float) -> None:
    with pytest.raises(ConfigError):
        offer_group("target", size, backend=backend, timeout_s=timeout_s)


def test_the_backend_follows_device_and_host() -> None:
    assert choose_backend("cuda:1", same_host=True) == "nccl"
    assert choose_backend("cpu", same_host=False) == "gloo"
    assert choose_backend("cpu", same_host=True) in ("shm", "gloo")


def serve() -> None:
    """Answer tasks until standard input ends."""
    torch.set_num_threads(1)
    print(json.dumps({"number": 0}), flush=True)
    for line in sys.stdin:
        task = json.loads(line)
        answer: dict[str, Any] = {"number": task["number"], "error": None}
        try:
            group = join_group(GroupSpec(**task["spec"]), task["rank"])
            answer["digests"] = SCENARIOS[task["scenario"]](group)
            group.close()
        except Exception as error:  # the outermost loop: the test reads it
            answer["error"] = repr(error)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    serve()
