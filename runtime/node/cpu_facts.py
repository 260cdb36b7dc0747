"""What speed on a CPU depends on: its model and the instructions that it has."""

import platform
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

_CPUINFO = Path("/proc/cpuinfo")
_INSTRUCTIONS = (
    *("avx2", "avx_vnni", "avx512bw", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16"),
    *("asimddp", "i8mm", "bf16", "sve"),
)
"""Flags of /proc/cpuinfo that the speed of matrix products depends on, on x86-64 and ARM."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuFacts:
    """A machine's CPU."""

    model: str
    instructions: tuple[str, ...]
    """Those of its extensions that matrix products use."""


def read_cpu_facts(cpuinfo: Path = _CPUINFO) -> CpuFacts:
    """Return the facts of this machine's CPU, from the kernel's description where there is one."""
    fields = _fields(cpuinfo)
    flags = set((fields.get("flags") or fields.get("Features") or "").split())
    return CpuFacts(
        model=fields.get("model name") or platform.processor() or platform.machine(),
        instructions=tuple(name for name in _INSTRUCTIONS if name in flags),
    )


def resident_bytes(pids: Iterable[int]) -> int:
    """Return the memory that processes of this machine hold, their mapped files included."""
    return sum(int(psutil.Process(pid).memory_info().rss) for pid in pids)


def _fields(cpuinfo: Path) -> dict[str, str]:
    try:
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    pairs = [line.partition(":") for line in reversed(lines)]  # the first core's are kept
    return {name.strip(): value.strip() for name, _, value in pairs if value.strip()}
