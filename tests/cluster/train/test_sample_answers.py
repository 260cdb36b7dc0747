"""Prompts of the evaluation file are answered, and the answers are kept with their steps."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from cluster.train.sample_answers import ANSWERS, SampleAnswers, add_answers, cut_answers
from parallel.training.adamw import Vector
from runtime.models.tokenizer import Tokenizer
from runtime.training.training_data import Sample
from tests.support.tiny_checkpoint import save_tiny_checkpoint


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer.load(save_tiny_checkpoint(tmp_path_factory.mktemp("tiny")))


def double(parameters: Vector, prompts: Sequence[tuple[int, ...]]) -> list[list[int]]:
    """Answer each prompt with its last token plus a parameter, twice."""
    return [[prompt[-1] + int(parameters[0])] * 2 for prompt in prompts]


def test_prompts_are_answered_and_shown_beside_what_is_wanted(tokenizer: Tokenizer) -> None:
    samples = [Sample((1, 2, 3), 2), Sample((4, 5, 6, 7), 1, gaps=((2, 3),))]
    answers = SampleAnswers(samples, tokenizer, double).at(9, np.array([10], dtype=np.float32))
    assert [(one.step, one.prompt, one.answer, one.wanted) for one in answers] == [
        (9, "w1 w2", "w12 w12", "w3"),
        (9, "w4", "w14 w14", "w5"),
    ]
    assert str(answers[0]) == "w1 w2 ⟦w12 w12⟧"
    assert SampleAnswers([], tokenizer, double).at(9, np.zeros(1, dtype=np.float32)) == []


def test_answers_after_the_state_of_a_resumed_job_are_dropped(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    cut_answers(tmp_path, 5)
    ask = SampleAnswers([Sample((1, 2, 3), 2)], tokenizer, double)
    for step in (5, 10, 15):
        add_answers(tmp_path, ask.at(step, np.ones(1, dtype=np.float32)))
    file = tmp_path / ANSWERS
    file.write_text(file.read_text() + '{"step": 20, "pro')  # the job was killed as it wrote
    cut_answers(tmp_path, 10)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["step"] for line in lines] == [5, 10]
    assert lines[0]["answer"] == "w3 w3"
