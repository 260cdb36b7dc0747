"""Figures of an evaluation that was cut are there for the next run, if it is of the same kind."""

from pathlib import Path

import pytest

from cluster.draft_eval_store import EvalStore, Pair
from cluster.session import Result
from parallel.messages import RequestStats
from runtime.errors import ConfigError
from tests.rig import make_submit

CONFIG = {"target": "toy", "draft_length": 5}


def pair(number: int) -> Pair:
    submit = make_submit(number, prompt=(1, 2, number))
    stats = RequestStats(rounds=3, drafted=6, accepted=4, total_s=0.5, tested_at=(3, 2))
    drafted = Result(submit=submit, token_ids=[7, 8, number], stats=stats)
    return Pair(
        category="qa", plain=Result(submit=submit, token_ids=[7, 8, number]), drafted=drafted
    )


def test_what_is_kept_is_found_again(tmp_path: Path) -> None:
    file = tmp_path / "eval.jsonl"
    store = EvalStore(file, CONFIG)
    store.keep("lookup", pair(1))
    store.keep("lookup", pair(2))
    with file.open("a") as torn:
        torn.write('{"drafter": "lookup", "pro')
    again = EvalStore(file, CONFIG)
    for number in (1, 2):
        assert again.find("lookup", pair(number).plain.submit, "qa") == pair(number)
    assert again.find("lookup", pair(3).plain.submit, "qa") is None
    assert again.find("ngram", pair(1).plain.submit, "qa") is None
    again.keep("ngram", pair(1))
    assert EvalStore(file, CONFIG).find("ngram", pair(1).plain.submit, "qa") == pair(1)


def test_figures_of_another_kind_of_run_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "eval.jsonl"
    EvalStore(file, CONFIG).keep("lookup", pair(1))
    with pytest.raises(ConfigError, match=r"measured with .*'draft_length': 5.*, not .*: 4"):
        EvalStore(file, CONFIG | {"draft_length": 4})
    file.write_text("1\n2\n")
    with pytest.raises(ConfigError, match="holds no figures of draft eval"):
        EvalStore(file, CONFIG)
    for text in ("a line and\nhalf of one", "no line at all"):
        file.write_text(text)
        with pytest.raises(ConfigError, match="holds no figures of draft eval"):
            EvalStore(file, CONFIG)
        assert file.read_text() == text  # a file of something else loses nothing
    with pytest.raises(ConfigError, match="--keep"):
        EvalStore(tmp_path, CONFIG)
