"""How much memory there is, and the refusal of what does not fit."""

from pathlib import Path

import psutil

from runtime.errors import ConfigError

_GIB = 1024**3
_RESERVE = 0.05  # of what is free: activations, buffers, everybody else
_CGROUP_FILES = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (
        Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
        Path("/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ),
)


def available_bytes() -> int:
    """Return the memory this process may still use: the machine's, or its container's if less."""
    available = int(psutil.virtual_memory().available)
    for limit_file, usage_file in _CGROUP_FILES:
        limit, usage = _number(limit_file), _number(usage_file)
        if limit is not None and usage is not None:
            available = min(available, max(0, limit - usage))
    return available


def check_fits(weight_bytes: int, cache_bytes: int, available: int, *, cache_tokens: int) -> None:
    """Refuse weights and a cache that together need more than is available.

    Raises:
        ConfigError: they do; names the figures and the remedy.
    """
    if weight_bytes + cache_bytes <= available * (1 - _RESERVE):
        return
    raise ConfigError(
        f"not enough memory: the weights need {weight_bytes / _GIB:.1f} GiB and a KV cache of "
        f"{cache_tokens} tokens {cache_bytes / _GIB:.1f} GiB, {available / _GIB:.1f} GiB are "
        "available: lower --cache-tokens, --max-tokens or --max-batch, or take a smaller --dtype"
    )


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # no such controller, or "max"
        return None
