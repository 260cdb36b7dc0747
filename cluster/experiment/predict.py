"""The simulators' predictions for a point, before it is measured."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from math import isinf

from cluster.experiment.experiment_config import Devices, Experiment, Network
from cluster.experiment.sweep_points import GeneratePoint, Point, TrainPoint
from cluster.generate.prompt_requests import virtual_prompt
from cluster.simulate.simulate_train import parse_scheme
from parallel.decoding.layer_width import StackTimes
from parallel.decoding.types import DecodeMode
from parallel.simulation.decoding_rounds import simulate
from parallel.simulation.decoding_setup import (
    Busy,
    SimulatedDecoding,
    SimulatedDeployment,
    SimulatedRequest,
)
from parallel.training.gradient_coding.drawn import DrawnStragglers
from parallel.training.gradient_coding.queue_schedules import QUEUE_SCHEMES
from runtime.rank.virtual_shard import VirtualSpec
from runtime.rank.virtual_stack import VirtualStack
from runtime.timeline import PhaseSpan, SpanKind
from runtime.training.job.job_config import WorkersConfig

VOCAB = 1024
_MAX_WIDTH = 8
_GATHERED_BYTES = 256
_CHUNKS_EACH = 4
"""The number of chunks for each worker in the queue schemes of `bench train`."""
_KEPT_SPANS = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """The simulated figures of a point."""

    rate: float
    """Tokens or samples per second."""
    wall_s: float
    """The duration of one run."""
    accepted: int = 0
    rejected: int = 0
    rounds: int = 0
    tokens_per_round: float = 0.0
    overlap: float = 0.0
    ttft_s: float = 0.0
    """Mean."""
    step_s: float = 0.0
    """The mean duration of a training step."""


def predict(experiment: Experiment, point: Point) -> Prediction | None:
    """Return the prediction for a point; None if the experiment has no figures for its devices."""
    if isinstance(point, TrainPoint):
        return _predict_training(experiment, point)
    if experiment.devices is None:
        return None
    return summed([simulate(setting, part) for setting, part in simulations(experiment, point)])


def simulations(
    experiment: Experiment, point: GeneratePoint
) -> list[tuple[SimulatedDeployment, list[SimulatedRequest]]]:
    """Return the simulator settings of each replica of a point, with its share of the requests."""
    assert experiment.devices is not None
    setting = _setting(experiment.devices, experiment.network, point)
    requests = [
        SimulatedRequest(
            stream=virtual_prompt(index, VOCAB)[0],
            num_prompt=len(virtual_prompt(index, VOCAB)),
            max_tokens=experiment.requests.max_tokens,
            arrives_s=due_s,
        )
        for index, due_s in enumerate(arrivals(experiment, point))
    ]
    shares = [requests[first :: point.replicas] for first in range(point.replicas)]
    return [(setting, share) for share in shares if share]


def arrivals(experiment: Experiment, point: GeneratePoint) -> list[float]:
    """Return the arrival time of each request of a point, in seconds from the start of the run."""
    requests = experiment.requests
    if not point.rate:
        return [0.0] * requests.num
    draw, due_s, found = random.Random(requests.seed), 0.0, []
    for _ in range(requests.num):
        due_s += draw.expovariate(point.rate)
        found.append(due_s)
    return found


def summed(parts: Sequence[SimulatedDecoding]) -> Prediction:
    """Return the combined figures of several replicas."""
    wall_s = max(part.elapsed_s for part in parts)
    num_tokens = sum(part.num_tokens for part in parts)
    num_rounds = sum(part.num_rounds for part in parts)
    firsts = [first_s for part in parts for first_s in part.ttft_s]
    draft_s = sum(part.draft_s for part in parts)
    waited_s = sum(part.waited_s for part in parts)
    return Prediction(
        rate=num_tokens / wall_s,
        wall_s=wall_s,
        accepted=sum(part.accepted for part in parts),
        rejected=sum(part.rejected for part in parts),
        rounds=num_rounds,
        tokens_per_round=num_tokens / num_rounds,
        overlap=max(0.0, 1 - waited_s / draft_s) if draft_s else 0.0,
        ttft_s=sum(firsts) / len(firsts),
    )


def simulated_spans(experiment: Experiment, point: GeneratePoint) -> list[PhaseSpan]:
    """Return the simulated spans of target and drafter at the start of a point's run."""
    setting, requests = simulations(experiment, point)[0]
    phases = {
        Busy.TARGET: SpanKind.VERIFY,
        Busy.DRAFTER: SpanKind.DRAFT,
        Busy.HIT: SpanKind.HIT,
        Busy.MISS: SpanKind.MISS,
    }
    spans = simulate(setting, requests[:1], keep_spans=_KEPT_SPANS).spans
    return [PhaseSpan(phases[span.peer], span.start_s, span.end_s, 0) for span in spans]


def virtual_text(devices: Devices, point: GeneratePoint) -> str:
    """Return the `--virtual` text of a point's devices, with shared times divided by the ranks."""
    target_s = devices.target + devices.split / point.tp
    parts = [
        f"target={_us(target_s)}",
        f"alpha={devices.alpha if point.alpha is None else point.alpha}",
        f"beta={devices.beta}",
        f"branch={_us(devices.branch)}",
        f"position={_us(devices.position)}",
    ]
    parts += [f"exchanges={devices.exchanges}", f"vocab={VOCAB}", f"seed={devices.seed}"]
    if devices.layers is None:
        assert devices.draft is not None
        draft_s = devices.draft if point.draft is None else point.draft
        return ",".join([*parts, f"draft={_us(draft_s)}"])
    shared_s = devices.mlp / max(point.drafter_tp, 1)
    parts += [f"layers={devices.layers}", f"attention={_us(devices.attention)}"]
    parts += [f"mlp={_us(shared_s)}", f"exchange={_us(devices.gather)}", f"drop={devices.drop}"]
    return ",".join(parts)


def _us(seconds: float) -> str:
    return f"{seconds * 1e6:.3f}us"


def _setting(devices: Devices, network: Network, point: GeneratePoint) -> SimulatedDeployment:
    spec = VirtualSpec.parse(virtual_text(devices, point))
    per_node = -(-point.tp // point.nodes) if point.nodes > 1 else None
    fabric = network.fabric(per_node)
    exchanges_s = devices.exchanges * fabric.all_reduce_s(devices.exchange_bytes, point.tp)

    def target_s(positions: int) -> float:
        return spec.target_s + exchanges_s + (positions - 1) * spec.position_s

    size = max(point.drafter_tp, 1)
    steps: tuple[float, ...] = (spec.draft_s,)
    if spec.stack is not None:
        steps = _layered_steps(spec.stack, network, size)
    width = int(point.layer_parallel) if point.layer_parallel.isdecimal() else None
    auto = point.layer_parallel == "auto" and point.drafter_tp > 1
    return SimulatedDeployment(
        mode=DecodeMode(point.mode),
        chance=spec.chance,
        target_s=target_s,
        step_s=lambda wide: steps[min(wide, len(steps)) - 1],
        branch_s=spec.branch_s,
        num_drafters=point.drafters,
        draft_length=point.draft_length,
        predicted_step_s=steps if auto else (),
        width=width,
        link=network.line,
        host_s=network.host,
        max_batch=point.batch,
    )


def _layered_steps(stack: VirtualStack, network: Network, size: int) -> tuple[float, ...]:
    fabric = network.fabric()
    times = StackTimes(
        attention_s=stack.attention_s,
        gather_s=stack.exchange_s + fabric.all_gather_s(_GATHERED_BYTES, size),
        mlp_s=stack.mlp_s + fabric.all_reduce_s(_GATHERED_BYTES, size),
        head_s=0.0,
    )
    widths = range(1, min(_MAX_WIDTH, stack.num_layers) + 1)
    return tuple(times.step_s(width, num_layers=stack.num_layers, size=size) for width in widths)


def _predict_training(experiment: Experiment, point: TrainPoint) -> Prediction | None:
    train = experiment.train
    assert train is not None
    if isinf(point.factor):
        return None  # workers that hang are replaced, which the schemes' models leave out
    scheme, num_chunks = point.scheme, 0
    if queue := QUEUE_SCHEMES.get(scheme):
        number = WorkersConfig().group if queue.is_grouped else _CHUNKS_EACH
        scheme, num_chunks = f"{scheme}-{number}", queue.shape(point.workers, number).num_chunks
    runner = parse_scheme(
        scheme, point.workers, train.patience, carries_over=True, turn_s=train.turn
    )
    found = runner(
        DrawnStragglers(
            num_rounds=train.steps,
            batch_s=train.sample * train.batch + train.overhead * num_chunks,
            overhead_s=0.0 if num_chunks else train.overhead,
            slow=train.slow if point.factor != 1 else 0.0,
            factor=point.factor,
            seed=train.seed,
        )
    )
    step_s = found.seconds / found.num_jobs
    return Prediction(rate=train.batch / step_s, wall_s=step_s * train.steps, step_s=step_s)
