"""Choose a scheme from the times of a few rounds: each one is replayed on the same times."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from parallel.training.gradient_coding.names import round_scheme
from parallel.training.gradient_coding.queue_schedules import QUEUE_SCHEMES
from parallel.training.gradient_coding.queue_simulation import simulate_queue
from parallel.training.gradient_coding.scheme_simulation import simulate_rounds
from parallel.training.gradient_coding.worker_times import Trace

_SHORTEST_S = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The scheme that is fastest on a profile."""

    scheme: str
    group: int
    """Workers of a group, with a grouped scheme."""
    seconds: dict[str, float]
    """Seconds of a step with each scheme, as replayed."""

    @property
    def why(self) -> str:
        """The reason, for people to read."""
        best = self.seconds[self.scheme]
        rest = sorted((s, name) for name, s in self.seconds.items() if name != self.scheme)
        others = ", ".join(f"{name} {s / max(best, _SHORTEST_S):.2f}" for s, name in rest[:4])
        return f"a step of the profiled rounds takes {best:.2f} s with it; relative to it: {others}"


def choose_scheme(
    times_s: Sequence[Sequence[float]], *, num_chunks: int, patience: float, max_workers: int
) -> Choice:
    """Return the fastest exact scheme that trains one model.

    It assumes that computing takes all of a worker's time, so redundancy costs its full share.

    Args:
        times_s: when each worker finished its share, [rounds][workers].
        num_chunks: chunks of a step's batch in a queue.
        patience: mu of the schemes that work in rounds.
        max_workers: workers that the job may have; group sizes have to divide these too.
    """
    times = np.array(times_s)
    num_workers = times.shape[1]
    slope = num_workers * float(np.median(times))
    trace = Trace(times, slope)
    each = max(1, num_chunks // num_workers)
    group = next((d for d in (2, 3, 4) if num_workers % d == 0 == max_workers % d), 0)
    seconds = {}
    for name, queue in QUEUE_SCHEMES.items():
        number = group if queue.is_grouped else each
        if number:
            shape = queue.shape(num_workers, number)
            seconds[name] = simulate_queue(
                name,
                partial(queue.make, shape),
                trace,
                num_workers=num_workers,
                chunks_each=shape.num_chunks // num_workers,
            ).seconds
    names = ["uncoded", *(f"{kind}-{s}" for kind in ("frc", "class") for s in (1, 2, 3))]
    for name in names:
        try:
            scheme = round_scheme(name, num_workers)
        except ValueError:
            continue  # does not exist for so many workers
        assert scheme is not None
        seconds[name] = simulate_rounds(scheme, trace, patience=patience).seconds
    seconds = {name: total / len(times) for name, total in seconds.items()}
    return Choice(scheme=min(seconds, key=seconds.__getitem__), group=group, seconds=seconds)
