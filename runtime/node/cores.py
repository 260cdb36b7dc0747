"""The number of cores that this process may use."""

import os
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")


def usable_cores(cgroups: Path = _CGROUPS) -> int:
    """Return the number of cores this process may use: the machine's, or its container's limit.

    Args:
        cgroups: mount point of the container's limits.
    """
    allowed = len(os.sched_getaffinity(0))
    quota = _quota(cgroups)
    return max(1, allowed if quota is None else min(allowed, int(quota)))


def _quota(cgroups: Path) -> float | None:
    """Return the number of cores in the scheduler's quota; None without a quota."""
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            quota, period = " ".join(
                (cgroups / name).read_text(encoding="utf-8") for name in names
            ).split()
            cores = int(quota) / int(period)
        except (OSError, ValueError):  # no such controller, or "max"
            continue
        if cores > 0:  # -1 is no limit
            return cores
    return None
