"""Configurations of a bench take turns, and a run that was cut measures only what is missing."""

from pathlib import Path

import pytest

from cluster.bench.rows import Case, MeasuredRun
from cluster.bench.turns import take_turns
from cluster.reports.resume_file import ResumeFile
from parallel.messages import Submit
from tests.support.rig import make_submit

GROUPS = {
    "qa": [make_submit(0, prompt=(1, 2)), make_submit(1, prompt=(3,))],
    "math": [make_submit(2, prompt=(4,))],
}


class Bench:
    """Two configurations; what each was asked, in order, without the warm-up."""

    def __init__(self, cut_at: int | None = None) -> None:
        self.asked: list[tuple[str, tuple[int, ...]]] = []
        self._cut_at = cut_at
        self.cases = [self._case("slow", 2.0), self._case("fast", 1.0)]

    def run(self, *, batch: int = 1, resume: ResumeFile | None = None) -> None:
        resume = resume or ResumeFile(None, {}, verb="bench decode")
        take_turns(self.cases, GROUPS, repeats=2, batch=batch, max_tokens=20, resume=resume)

    def _case(self, name: str, wall_s: float) -> Case:
        def measure(submits: list[Submit], max_tokens: int) -> MeasuredRun:
            if max_tokens == 20:
                if len(self.asked) == self._cut_at:
                    raise KeyboardInterrupt
                self.asked.append((name, tuple(submit.request for submit in submits)))
            tokens = tuple((submit.request,) * max_tokens for submit in submits)
            return MeasuredRun(token_ids=tokens, wall_s=wall_s * len(submits))

        return Case(name=name, tp=1, measure=measure)


def test_single_prompts_take_turns_and_batches_stay_whole() -> None:
    bench = Bench()
    bench.run()
    slow_first, fast_first = ("slow", "fast"), ("fast", "slow")
    turns = [(0, slow_first), (1, fast_first), (2, slow_first)]
    turns += [(0, fast_first), (1, slow_first), (2, fast_first)]
    assert bench.asked == [(name, (request,)) for request, names in turns for name in names]
    slow, fast = bench.cases
    assert [run.wall_s for run in slow.over(["qa", "math"])] == [6.0, 6.0]
    assert fast.over(["qa"])[0].token_ids == ((0,) * 20, (1,) * 20)

    bench = Bench()
    bench.run(batch=4)
    assert bench.asked[:3] == [("slow", (0, 1)), ("fast", (0, 1)), ("slow", (2,))]


def test_an_interrupted_run_measures_what_is_missing(tmp_path: Path) -> None:
    def kept() -> ResumeFile:
        return ResumeFile(tmp_path / "bench.jsonl", {"batch": 1}, verb="bench decode")

    whole, cut, rest = Bench(), Bench(cut_at=5), Bench()
    whole.run()
    with pytest.raises(KeyboardInterrupt):
        cut.run(resume=kept())
    rest.run(resume=kept())
    assert cut.asked + rest.asked == whole.asked
    for case, same in zip(rest.cases, whole.cases, strict=True):
        assert case.runs == same.runs
