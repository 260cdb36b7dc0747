"""Figures of a measurement that was cut are there for the next run, if it is of the same kind."""

from pathlib import Path

import pytest

from cluster.bench.rows import MeasuredRun, as_measured
from cluster.deploy.driver_session import Result
from cluster.draft.draft_eval_store import EvalPair, find_pair, keep_pair
from cluster.reports.resume_file import ResumeFile, prompts_key
from parallel.messages import RequestStats
from runtime.errors import ConfigError
from tests.support.rig import make_submit

CONFIG = {"target": "toy", "draft_length": 5}


def kept(file: Path, **other: object) -> ResumeFile:
    return ResumeFile(file, CONFIG | other, verb="draft eval")


def drafted(number: int) -> Result:
    submit = make_submit(number, prompt=(1, 2, number))
    stats = RequestStats(rounds=3, drafted=6, accepted=4, total_s=0.5, tested_at=(3, 2))
    return Result(submit=submit, token_ids=[7, 8, number], stats=stats)


def pair(number: int) -> EvalPair:
    plain = Result(submit=drafted(number).submit, token_ids=[7, 8, number])
    return EvalPair(category="qa", plain=plain, drafted=drafted(number))


def test_what_is_kept_is_found_again(tmp_path: Path) -> None:
    file = tmp_path / "eval.jsonl"
    keep_pair(kept(file), "lookup", pair(1))
    keep_pair(kept(file), "lookup", pair(2))
    with file.open("a") as torn:
        torn.write('{"key": "lookup pro')
    again = kept(file)
    for number in (1, 2):
        assert find_pair(again, "lookup", pair(number).plain.submit, "qa") == pair(number)
    assert find_pair(again, "lookup", pair(3).plain.submit, "qa") is None
    assert find_pair(again, "ngram", pair(1).plain.submit, "qa") is None
    keep_pair(again, "ngram", pair(1))
    assert find_pair(kept(file), "ngram", pair(1).plain.submit, "qa") == pair(1)


@pytest.mark.parametrize("results", [(), (drafted(1), drafted(2))], ids=["baseline", "ours"])
def test_a_run_of_a_bench_comes_back_as_it_was(tmp_path: Path, results: tuple[Result]) -> None:
    submits = [drafted(1).submit, drafted(2).submit]
    run = MeasuredRun(token_ids=((7, 8, 1), (7, 8, 2)), wall_s=0.25, results=results)
    kept(tmp_path / "bench.jsonl").store(prompts_key(submits), run.fields)
    found = kept(tmp_path / "bench.jsonl").find(prompts_key(submits))
    assert found is not None
    assert as_measured(submits, found) == run
    assert prompts_key(submits[:1]) != prompts_key(submits)


def test_figures_of_another_kind_of_run_are_rejected(tmp_path: Path) -> None:
    file = tmp_path / "eval.jsonl"
    kept(file).store("lookup", {})
    with pytest.raises(ConfigError, match="measured with draft_length=5, not draft_length=4"):
        kept(file, draft_length=4)
    with pytest.raises(ConfigError, match="verb='draft eval', not verb='bench decode'"):
        ResumeFile(file, CONFIG, verb="bench decode")
    file.write_text("1\n2\n")
    with pytest.raises(ConfigError, match="holds no figures of draft eval"):
        kept(file)
    for text in ("a line and\nhalf of one", "no line at all"):
        file.write_text(text)
        with pytest.raises(ConfigError, match="holds no figures of draft eval"):
            kept(file)
        assert file.read_text() == text  # a file of something else loses nothing
    with pytest.raises(ConfigError, match="`keep`"):
        kept(tmp_path)
