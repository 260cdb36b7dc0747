"""Reject a job whose processes cannot fit into the memory of its nodes."""

from collections.abc import Mapping, Sequence

from runtime.errors import ConfigError
from runtime.training.planning.job_plan import JobPlan

_GIB = 1024**3
_LIBRARIES = "libraries"
_REMEDIES: Mapping[str, str] = {
    "base weights": '`base_precision` "int4" holds the base in fewer bytes',
    "trained weights": '`method` "lora" trains fewer numbers',
    "gradients": '`method` "lora" trains fewer numbers',
    "activations": "lower `optimizer.microbatch` or `data.max_length`, or set "
    "`gradient_checkpointing`",
    "logits": "lower `optimizer.microbatch` or `data.max_length`",
    "conversion": '`base_precision` "float32" converts nothing',
    "optimizer state": '`method` "lora" trains fewer numbers',
}
"""What makes the largest part of a process smaller."""


def check_fits(plan: JobPlan, nodes: Sequence[int], *, num_workers: int) -> None:
    """Reject a job that needs more memory than there is.

    Args:
        plan: the job's.
        nodes: the bytes that are available on each node, the driver's first.
        num_workers: workers with which the job starts.

    Raises:
        ConfigError: its processes do not fit; names the parts of the largest, and the remedies.
    """
    # Libraries are counted for people: processes share most of their pages.
    driver, rank = (
        total - parts.get(_LIBRARIES, 0)
        for total, parts in ((plan.driver_bytes, plan.driver), (plan.worker_bytes, plan.worker))
    )
    left = [nodes[0] - driver, *nodes[1:]]
    num_wanted = num_workers * plan.num_ranks
    if left[0] >= 0 and sum(max(0, free) // rank for free in left) >= num_wanted:
        return
    worker = max(plan.worker, key=lambda name: plan.worker[name])
    largest = {worker: plan.worker[worker]}
    if left[0] < 0:
        largest = {name: size for name, size in plan.driver.items() if name == "optimizer state"}
    remedies = [_REMEDIES[name] for name in largest if name in _REMEDIES]
    if len(nodes) > 1 and left[0] >= 0:
        remedies.append("split each worker over more ranks (`workers.tp`)")
    if num_workers > 1 and left[0] >= 0:
        remedies.append("take fewer workers (`workers.count`, `workers.min`)")
    free = ", ".join(gib(size) for size in nodes)
    raise ConfigError(
        f"not enough memory: {_workers(plan, num_workers)} of {gib(plan.worker_bytes)} "
        f"({parts_of(plan.worker)}) and a driver of {gib(plan.driver_bytes)} "
        f"({parts_of({**plan.driver, **plan.shared})}) do not fit; available: {free}. "
        f"{_sentence(remedies)}"
    )


def parts_of(parts: Mapping[str, int]) -> str:
    """Return the parts that take memory, the largest first, as text."""
    ordered = sorted(parts.items(), key=lambda part: -part[1])
    return ", ".join(f"{name} {gib(size)}" for name, size in ordered if size)


def gib(size: float) -> str:
    """Return a number of bytes as people read it."""
    return f"{size / _GIB:.2f} GiB" if size >= _GIB / 100 else f"{size / 1024**2:.1f} MiB"


def _workers(plan: JobPlan, num_workers: int) -> str:
    """Return what needs the memory of a worker's parts, as text."""
    workers = f"{num_workers} worker{'s' if num_workers > 1 else ''}"
    if plan.num_ranks == 1:
        return workers
    return f"{num_workers * plan.num_ranks} ranks, {plan.num_ranks} for each of {workers},"


def _sentence(remedies: Sequence[str]) -> str:
    text = "; ".join(remedies) or "join nodes with more memory"
    return f"{text[0].upper()}{text[1:]}" if text[0] != "`" else text
