"""What a sequencer asks of a worker is read whole, or rejected by name."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from parallel.weights.weight_format import WeightFormat
from runtime.errors import ConfigError
from runtime.models.transformers_model import load_transformers
from runtime.training.job.job_config import TrainConfig
from runtime.training.shared_seed.shared_seed_job import (
    model_digest,
    terms_from_json,
    terms_of,
    terms_to_json,
)
from tests.support.stored_checkpoints import save_stored

TERMS = terms_of(TrainConfig())


def test_terms_go_there_and_back() -> None:
    assert terms_from_json(terms_to_json(TERMS)) == TERMS


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"directions": 0}, "directions is 0"),
        ({"directions": "2"}, "directions is '2'"),
        ({"sides": 3}, "sides is 3"),
        ({"batch": 0}, "batch is 0"),
        ({"rows": 1.5}, "rows is 1.5"),
        ({"max_length": 0}, "max_length is 0"),
        ({"max_answer": -1}, "max_answer is -1"),
        ({"words": {"label": "ab"}}, "words.label is 'ab'"),
        ({"prompt": None}, "prompt is None"),
        ({"system": "x"}, "unknown key system"),
    ],
)
def test_terms_that_no_run_has_are_rejected(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=f"the sequencer's terms cannot be read: .*{message}"):
        terms_from_json(json.dumps(asdict(TERMS) | changes))


@pytest.mark.parametrize("text", ["", "[]", "null", '{"words": {}}', "[" * 100_000])
def test_anything_else_is_no_terms(text: str) -> None:
    with pytest.raises(ConfigError, match="the sequencer's terms cannot be read: "):
        terms_from_json(text)


def test_the_digest_of_a_converted_model_is_that_of_its_numbers(tmp_path: Path) -> None:
    stored = save_stored(tmp_path / "stored", WeightFormat.INT4)
    plain = tmp_path / "plain"
    load_transformers(stored, torch.float32).save_pretrained(plain)
    assert model_digest(stored) == model_digest(plain)
    assert model_digest(stored) == model_digest(save_stored(tmp_path / "again", WeightFormat.INT4))
    assert model_digest(stored) != model_digest(save_stored(tmp_path / "int8", WeightFormat.INT8))
