"""The interleaved runs of `paceline bench decode`.

Configurations take turns, so that what else the machine does falls on all of them alike.
"""

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from cluster.bench.rows import Case, MeasuredRun, as_measured, together
from cluster.reports.resume_file import Kept, prompts_key
from parallel.messages import Submit

_WARM_UP_TOKENS = 8
_WARM_UP_PROMPTS = 4


def take_turns(
    cases: Sequence[Case],
    groups: Mapping[str, list[Submit]],
    *,
    repeats: int,
    batch: int,
    max_tokens: int,
    kept: Kept,
) -> None:
    """Measure every case on every group, and add the runs to the cases.

    Prompts that run one at a time take turns one by one; those of a batch run together, since each
    part of a batch would end half empty.

    Args:
        cases: the configurations.
        groups: requests by the name of their group.
        repeats: runs of each.
        batch: requests in flight at once.
        max_tokens: tokens of each request.
        kept: what was measured before, and where to keep what is measured now.
    """
    pieces = {
        name: [[submit] for submit in submits] if batch == 1 else [submits]
        for name, submits in groups.items()
    }
    with Progress(
        TextColumn("measuring {task.fields[case]}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
        refresh_per_second=1,  # the cores are for what is measured
    ) as progress:
        total = len(cases) * (repeats * sum(map(len, pieces.values())) + 1)
        task = progress.add_task("bench", total=total, case="")

        def measure(case: Case, submits: list[Submit], num: int) -> MeasuredRun:
            progress.update(task, case=f"{case.name} tp={case.tp}")
            return case.measure(submits, num)

        def measure_once(case: Case, submits: list[Submit], place: str) -> MeasuredRun:
            key = f"{case.name} tp={case.tp} {place} {prompts_key(submits)}"
            known = kept.find(key)
            if known is not None:
                return as_measured(submits, known)
            measured = measure(case, submits, max_tokens)
            kept.keep(key, measured.fields)
            return measured

        first = next(iter(groups.values()))[: _WARM_UP_PROMPTS * batch]
        for case in cases:
            measure(case, first, _WARM_UP_TOKENS)
            progress.advance(task)
        for repetition in range(repeats):
            for name, parts in pieces.items():
                runs: list[list[MeasuredRun]] = [[] for _ in cases]
                for number, submits in enumerate(parts):
                    for case, mine in zip(cases, runs, strict=True):
                        mine.append(
                            measure_once(case, submits, f"run {repetition} {name} {number}")
                        )
                        progress.advance(task)
                for case, mine in zip(cases, runs, strict=True):
                    case.runs.setdefault(name, []).append(together(mine))
