"""Measure the available memory, and reject what does not fit in it."""

from pathlib import Path

import psutil

from runtime.errors import ConfigError

_GIB = 1024**3
_RESERVE = 0.05  # share of the free memory for activations, buffers and other processes
_CGROUPS = Path("/sys/fs/cgroup")
_CGROUP_FILES = (  # version 2, then version 1: limit, usage, statistics, field of reclaimable pages
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    (
        "memory/memory.limit_in_bytes",
        "memory/memory.usage_in_bytes",
        "memory/memory.stat",
        "total_inactive_file",
    ),
)


def available_bytes(cgroups: Path = _CGROUPS) -> int:
    """Return the memory this process may still use, of the machine or of its container if less.

    Args:
        cgroups: the mount point of the container's limits.
    """
    available = int(psutil.virtual_memory().available)
    for limit_name, usage_name, stat_name, field in _CGROUP_FILES:
        limit, usage = _number(cgroups / limit_name), _number(cgroups / usage_name)
        if limit is not None and usage is not None:
            # Cached files count as usage, yet the kernel reclaims them when memory is needed.
            usage -= _stat(cgroups / stat_name, field)
            available = min(available, max(0, limit - usage))
    return available


def check_fits(weight_bytes: int, cache_bytes: int, available: int, *, cache_tokens: int) -> None:
    """Reject weights and a cache that together need more memory than is available.

    Raises:
        ConfigError: they do; names the figures and the remedy.
    """
    if weight_bytes + cache_bytes <= available * (1 - _RESERVE):
        return
    raise ConfigError(
        f"not enough memory: the weights need {weight_bytes / _GIB:.1f} GiB and a KV cache of "
        f"{cache_tokens} tokens {cache_bytes / _GIB:.1f} GiB, {available / _GIB:.1f} GiB are "
        "available: lower `cache_tokens`, `max_tokens` or `max_batch`, or use smaller `weights`"
    )


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # no such controller, or "max"
        return None


def _stat(path: Path, field: str) -> int:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.split()[0] == field), 0)
