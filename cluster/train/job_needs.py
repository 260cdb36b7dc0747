"""`paceline train plan`: what a job needs before it starts, and the same check when one starts."""

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from rich.console import Console
from rich.table import Table

from actors.echo_actor import VectorEchoActor
from cluster.network.ray_errors import result_of
from cluster.network.ray_session import RaySession
from cluster.options.train_options import TrainPlanOptions
from cluster.placement.reservation import read_nodes
from cluster.reports.run_report import output_console
from cluster.train.job_data import read_job_data
from runtime.clock import MonotonicClock
from runtime.errors import ConfigError
from runtime.models.checkpoint import resolve_model
from runtime.models.tokenizer import Tokenizer
from runtime.rank.memory_check import available_bytes
from runtime.training.job.config_file import load_config
from runtime.training.job.job_config import SHARED_SEED, TrainConfig
from runtime.training.planning.fit_check import check_fits, gib
from runtime.training.planning.job_plan import JobPlan, plan_job
from runtime.training.planning.transfer_timing import bytes_per_s
from runtime.training.samples import Sampler
from runtime.training.training_step import SampleSizes

_NOTES = Console(stderr=True, highlight=False)
_TOKENIZER = "tokenizer.json"
_MB = 10**6
_LIBRARIES = 400 * 1024**2
"""Bytes that a process holds alone once torch, transformers and Ray are loaded."""
_TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """What a job would run on."""

    memory: Sequence[int]
    """Bytes that are available on each node, the driver's first."""
    bandwidth: float
    """Bytes a second between driver and worker."""
    is_measured: bool


def run(options: TrainPlanOptions) -> int:
    """Print the plan of a job; return the exit code.

    Raises:
        ConfigError: the job cannot be planned, or does not fit.
    """
    config = load_config(options.config, options.settings)
    if config.method == SHARED_SEED:
        raise ConfigError("`method` is shared-seed: plan is for lora and full")
    directory = resolve_model(config.model)
    sizes = _sizes_of(config, directory)
    plan = needs_of(config, directory, sizes)
    place = _place_of(options)
    if options.json:
        print(json.dumps(_as_json(plan, place)))
    else:
        _show(config, plan, place, is_assumed=sizes is None)
    check(plan, config, place.memory)
    return 0


def needs_of(
    config: TrainConfig,
    directory: Path,
    sizes: SampleSizes | None,
    num_trained: int | None = None,
) -> JobPlan:
    """Return a job's plan.

    Args:
        config: the job.
        directory: its model's.
        sizes: of its samples, if they are known.
        num_trained: the numbers that it trains, if they were counted already.

    Raises:
        ConfigError: the job cannot work with this model.
    """
    return plan_job(
        directory, config, sizes=sizes, num_trained=num_trained, libraries_bytes=_LIBRARIES
    )


def check(plan: JobPlan, config: TrainConfig, memory: Sequence[int]) -> None:
    """Reject a job that does not fit; the memory of GPUs is not known here.

    Raises:
        ConfigError: it does not fit; names the parts and the remedies.
    """
    if config.workers.gpus == 0:
        check_fits(plan, memory, num_workers=config.workers.min or config.workers.count)


def node_memory(ray_address: str | None) -> list[int]:
    """Return the bytes that a job may use on each node, the driver's first; joins no cluster."""
    if ray_address is None:
        return [available_bytes()]
    nodes = sorted(read_nodes(), key=lambda node: not node.is_here)
    return [int(node.free.get("memory", 0)) for node in nodes if not node.hindrance]


def _sizes_of(config: TrainConfig, directory: Path) -> SampleSizes | None:
    """Return the sizes of the job's samples; None where these cannot be read yet."""
    data = config.data
    if not ((directory / _TOKENIZER).exists() and all(Path(one).exists() for one in data.files)):
        return None
    tokenizer = Tokenizer.load(directory)
    sampler = Sampler.of(directory, tokenizer, data.max_length)
    return read_job_data(data, tokenizer, sampler).known_sizes


def _place_of(options: TrainPlanOptions) -> _Place:
    given = options.bandwidth
    with ExitStack() as stack:
        if options.ray_address is not None or given is None:
            stack.enter_context(RaySession(options.ray_address, num_actors=1))
        bandwidth = given * _MB if given is not None else _measured()
        memory = node_memory(options.ray_address)
    return _Place(memory=memory, bandwidth=bandwidth, is_measured=given is None)


def _measured() -> float:
    """Return the bandwidth to a process on another node, or on this one if there is no other."""
    nodes = sorted(read_nodes(), key=lambda node: node.is_here)
    there = NodeAffinitySchedulingStrategy(nodes[0].node_id, soft=True)
    echo = ray.remote(VectorEchoActor).options(num_cpus=0, scheduling_strategy=there).remote()
    with _NOTES.status("measuring the bandwidth"):
        found = bytes_per_s(
            lambda vector: result_of(
                echo.send_back.remote(vector), "the other end", timeout_s=_TIMEOUT_S
            ),
            MonotonicClock(),
        )
    ray.kill(echo)
    return found


def _as_json(plan: JobPlan, place: _Place) -> dict[str, Any]:
    return {
        "num_trained": plan.num_trained,
        "num_workers": plan.num_workers,
        "num_ranks": plan.num_ranks,
        "chunk": asdict(plan.shape),
        "rank": dict(plan.worker) | {"total": plan.worker_bytes},
        "driver": dict(plan.driver),
        "shared": dict(plan.shared),
        "step": dict(plan.step),
        "bandwidth_bytes_per_s": place.bandwidth,
        "transfer_s": plan.transfer_s(place.bandwidth),
        "available": list(place.memory),
    }


def _show(config: TrainConfig, plan: JobPlan, place: _Place, *, is_assumed: bool) -> None:
    out, shape = output_console(), plan.shape
    ranks = f" of {plan.num_ranks} ranks" if plan.num_ranks > 1 else ""
    out.print(
        f"{config.method} of {config.model}: {plan.num_trained:,} trained numbers, "
        f"{plan.num_workers} workers{ranks}, chunks of {shape.rows} x {shape.length} tokens with "
        f"{shape.num_learned:,} in the loss{' (assumed: no samples were read)' * is_assumed}",
        soft_wrap=True,
    )
    each = "each rank of a worker" if plan.num_ranks > 1 else "each worker"
    for title, parts in (
        (f"memory of {each}", plan.worker),
        ("memory of the driver", plan.driver),
        ("shared memory of a node with all of them", plan.shared),
        ("sent in a step", plan.step),
    ):
        out.print(_table(title, parts))
    measured = "measured" if place.is_measured else "given"
    out.print(
        f"a step's vectors take {plan.transfer_s(place.bandwidth):.3g} s at "
        f"{place.bandwidth / _MB:,.0f} MB/s ({measured})",
        soft_wrap=True,
    )


def _table(title: str, parts: Any) -> Table:
    table = Table(title=title, title_justify="left", show_header=False, min_width=44)
    table.add_column("part")
    table.add_column("size", justify="right")
    for name, size in parts.items():
        if size:
            table.add_row(name, gib(size))
    table.add_row("total", gib(sum(parts.values())), style="bold")
    return table
