"""Measures the cost of a round beyond its forward passes, and its bytes."""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import PreTrainedModel

from parallel.training.shared_seed.byte_codec import encode
from parallel.training.shared_seed.directions import Direction
from parallel.training.shared_seed.space import DenseSpace
from parallel.training.shared_seed.step import Entry, RoundCommit, WeightReplica
from runtime.clock import MonotonicClock
from runtime.links.relay import CountingRelay
from runtime.training.adapters.base_model import load_model
from runtime.training.shared_seed.estimate import Estimate, two_sided
from runtime.training.shared_seed.member import Member
from runtime.training.shared_seed.points import PointsModel
from runtime.training.shared_seed.port import GrpcPort
from runtime.training.shared_seed.seed_log import Header
from runtime.training.shared_seed.seed_service import ListenSettings, SeedLogServer
from runtime.training.shared_seed.seed_worker import SeedWorker
from runtime.training.shared_seed.sequencer import Rules, Sequencer
from runtime.training.shared_seed.shared_seed_job import open_log
from runtime.training.training_data import Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCost:
    """Medians over interleaved repeats, in seconds."""

    directions: int
    batch: int
    forward_s: float
    """The plain model on as many sequences, in one forward pass."""
    estimate_s: float
    """All points of the round: drawing directions, perturbing, forwards, losses, bytes."""
    apply_s: float
    """The step of the round's commit, with all machines' scalars."""

    @property
    def ratio(self) -> float:
        """Ratio of a whole step to its forward passes."""
        return (self.estimate_s + self.apply_s) / self.forward_s


@dataclass(frozen=True, slots=True, kw_only=True)
class WireCost:
    """Mean bytes of one machine at its socket in a round."""

    machines: int
    directions: int
    up: float
    down: float
    allreduce: int
    """Bytes that a ring all-reduce of the same weights in float32 sends from each machine."""


class StepBench:
    """Times a model, plain and at points."""

    def __init__(self, directory: Path, header: Header, *, length: int, machines: int) -> None:
        """Load the model twice.

        Args:
            directory: the model.
            header: header of a run.
            length: tokens of a sample.
            machines: machines whose scalars a commit has.
        """
        self._eps = header.eps
        self._machines = machines
        self._sample = Sample(tuple(range(20, 20 + length)), length - 1)
        self._model = PointsModel.load(directory, header)
        self._plain = load_model(directory)
        self._replica = WeightReplica(self._model.points.space, self._model.points.start())

    def measure(self, directions: int, batch: int, *, repeats: int) -> StepCost:
        """Time a step of so many directions, with so many samples each."""
        forward_s, estimate_s, apply_s = _medians(
            (
                lambda: _plain_loss(self._plain, self._sample, 2 * directions * batch),
                lambda: self._estimate(directions, batch),
                lambda: self._apply(directions),
            ),
            repeats,
        )
        return StepCost(
            directions=directions,
            batch=batch,
            forward_s=forward_s,
            estimate_s=estimate_s,
            apply_s=apply_s,
        )

    def _estimate(self, directions: int, batch: int) -> None:
        some = [Direction(0, 0, k) for k in range(directions)]
        batches = [[self._sample] * batch] * directions
        rows, theta = 2 * directions * batch, self._replica.theta
        found = two_sided(self._model, theta, some, batches, eps=self._eps, rows=rows)
        bytes(encode(g, 1.0) for g in found.projected_grads)

    def _apply(self, directions: int) -> None:
        codes = bytes(encode(0.5 + 0.1 * k, 1.0) for k in range(directions))
        entries = tuple(Entry(0, machine, codes) for machine in range(self._machines))
        self._replica.next_round = 0
        self._replica.apply(RoundCommit(round=0, entries=entries, factor=1e-12))


def wire_cost(machines: int, directions: int, size: int, *, rounds: int) -> WireCost:
    """Count the bytes of one of several machines at its socket over real gRPC.

    Args:
        machines: machines in every round.
        directions: directions of each machine.
        size: weights that an all-reduce would send.
        rounds: rounds to count.
    """
    header = Header(seed=1, model="none", model_digest=b"", size=64, eps=1e-2, hash_every=10)
    rules = Rules(rounds=rounds + 2, lr=1e-3, patience=1e6, max_scalars=directions, quorum=machines)
    marks: list[tuple[int, int]] = []
    with tempfile.TemporaryDirectory() as folder:
        log, records = open_log(Path(folder) / "log", header)
        server = SeedLogServer(
            Sequencer(log, records, rules, MonotonicClock()),
            ListenSettings(address="127.0.0.1:0"),
            terms="{}",
            snapshot=Path(folder) / "snapshot",
        )
        server.start()
        relay = CountingRelay(server.address)
        ports = [GrpcPort(server.address) for _ in range(machines - 1)]
        others = [(port, Member(port.join("m").machine, header, _tiny(header))) for port in ports]

        def work(member: Member) -> Estimate:
            """Send the bytes of the other machines first, so that this one ends the round."""
            for port, other in others:
                while other.round < member.round:
                    other.take(port.exchange(other.report(), 5.0))
                port.exchange(other.report(bytes([80] * directions), 0.5), 0.0)
            return Estimate([0.5] * directions, 0.5, directions)

        def after(worker: SeedWorker) -> bool:
            marks.append((relay.num_up, relay.num_down))
            return worker.progress.round <= rounds

        try:
            SeedWorker(GrpcPort(relay.address), name="m", fresh=_tiny, work=work).run(after)
        finally:
            for port in ports:
                port.close()
            relay.close()
            server.stop()
            log.close()
    up, down = ((marks[-1][way] - marks[1][way]) / (len(marks) - 2) for way in (0, 1))
    ring = 2 * (machines - 1) * 4 * size // machines
    return WireCost(machines=machines, directions=directions, up=up, down=down, allreduce=ring)


def _tiny(header: Header) -> WeightReplica:
    return WeightReplica(DenseSpace(header.seed, header.size), torch.zeros(header.size))


def _plain_loss(model: PreTrainedModel, sample: Sample, rows: int) -> None:
    ids = torch.tensor([sample.token_ids] * rows)
    with torch.inference_mode():
        hidden = model.base_model(
            input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False
        ).last_hidden_state
        logits = model.get_output_embeddings()(hidden[:, sample.num_prompt - 1])
        F.cross_entropy(logits.float(), ids[:, -1])


def _medians(works: Sequence[Callable[[], None]], repeats: int) -> Iterator[float]:
    """Yield the median time of each, taken in turns after one of each to warm up."""
    times: list[list[float]] = [[] for _ in works]
    for repeat in range(repeats + 1):
        for index, work in enumerate(works):
            start_s = time.perf_counter()
            work()
            if repeat:
                times[index].append(time.perf_counter() - start_s)
    return (statistics.median(some) for some in times)
