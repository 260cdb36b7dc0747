"""The interleaved runs of `paceline bench decode` and `bench engines`.

Configurations take turns, so that other load on the machine affects all of them alike; each turn
starts with another one, so that none always runs after the same one.
"""

from collections.abc import Mapping, Sequence

from cluster.bench.case_progress import case_progress
from cluster.bench.rows import Case, MeasuredRun, as_measured, concatenate
from cluster.reports.resume_file import ResumeFile, prompts_key
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
    resume: ResumeFile,
) -> None:
    """Measure every case on every group, and add the runs to the cases.

    With a batch of 1, cases alternate after each prompt. Larger batches run as a whole, because a
    part of a batch would end with empty places.

    Args:
        cases: the configurations.
        groups: requests by the name of their group.
        repeats: number of runs of each case.
        batch: requests in flight at once.
        max_tokens: tokens of each request.
        resume: stores each measurement, and has those of an earlier run.
    """
    pieces = {
        name: [[submit] for submit in submits] if batch == 1 else [submits]
        for name, submits in groups.items()
    }
    total = len(cases) * (repeats * sum(map(len, pieces.values())) + 1)
    with case_progress(total) as start:
        first = next(iter(groups.values()))[: _WARM_UP_PROMPTS * batch]
        for case in cases:
            start(f"{case.name} tp={case.tp}")
            case.measure(first, _WARM_UP_TOKENS)
        for repetition in range(repeats):
            for name, parts in pieces.items():
                runs: list[list[MeasuredRun]] = [[] for _ in cases]
                for number, submits in enumerate(parts):
                    pairs = list(zip(cases, runs, strict=True))
                    first_place = (repetition + number) % len(cases)
                    for case, mine in pairs[first_place:] + pairs[:first_place]:
                        start(f"{case.name} tp={case.tp}")
                        place = f"run {repetition} {name} {number}"
                        mine.append(_measure_once(case, submits, max_tokens, resume, place))
                for case, mine in zip(cases, runs, strict=True):
                    case.runs.setdefault(name, []).append(concatenate(mine))


def _measure_once(
    case: Case, submits: list[Submit], max_tokens: int, resume: ResumeFile, place: str
) -> MeasuredRun:
    """Return the stored run of this place, or measure and store it."""
    key = f"{case.name} tp={case.tp} {place} {prompts_key(submits)}"
    stored = resume.find(key)
    if stored is not None:
        return as_measured(submits, stored)
    measured = case.measure(submits, max_tokens)
    resume.store(key, measured.fields)
    return measured
