"""Samples fit the model's embedding and context, or are rejected with file and line."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from runtime.errors import ConfigError
from runtime.models.tokenizer import Tokenizer
from runtime.training.job.job_config import DataConfig
from runtime.training.samples import EvalSamples, Sampler
from runtime.training.training_data import Sample, TextExample, read_examples
from tests.support.tiny_checkpoint import MAX_POSITIONS, VOCAB, save_tiny_checkpoint


@pytest.fixture(scope="module")
def sampler(tmp_path_factory: pytest.TempPathFactory) -> Sampler:
    directory = save_tiny_checkpoint(tmp_path_factory.mktemp("tiny"))
    return Sampler.of(directory, Tokenizer.load(directory), max_length=8)


def read(tmp_path: Path, sampler: Sampler, *records: object) -> list[TextExample]:
    file = tmp_path / "data.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return read_examples(file, DataConfig(), sampler.tokenizer)


def test_limits_are_those_of_the_model(sampler: Sampler) -> None:
    assert (sampler.vocab_size, sampler.max_positions) == (VOCAB, MAX_POSITIONS)


def test_a_length_beyond_the_context_is_rejected_by_its_key(sampler: Sampler) -> None:
    directory = Path(sampler.model)
    assert Sampler.of(directory, sampler.tokenizer, MAX_POSITIONS).max_length == MAX_POSITIONS
    with pytest.raises(
        ConfigError,
        match=r"`data.max_length` is 513, the context of .*tiny.* holds 512 tokens: set it to at "
        r"most 512",
    ):
        Sampler.of(directory, sampler.tokenizer, MAX_POSITIONS + 1)


def test_samples_that_fit_are_their_tokens(sampler: Sampler, tmp_path: Path) -> None:
    examples = read(tmp_path, sampler, {"prompt": "w1 w2", "completion": " w100"})
    assert sampler.samples(examples) == [Sample((1, 2, 100), 2)]


def test_a_token_beyond_the_embedding_is_rejected_by_line(sampler: Sampler, tmp_path: Path) -> None:
    small = replace(sampler, vocab_size=50)
    fits = {"prompt": "w1", "completion": " w49"}
    for record in ({"prompt": "w50", "completion": " w1"}, {"text": "w1 w50"}):
        examples = read(tmp_path, sampler, fits, record)
        with pytest.raises(
            ConfigError, match=r"data.jsonl, line 2: token 50 \('w50'\) is not in the embedding"
        ):
            small.samples(examples)
    assert len(small.samples(examples[:1])) == 1
    choices = TextExample("w1", " w2", (" w2", " w60"), where="data.jsonl, line 7")
    with pytest.raises(ConfigError, match="line 7: token 60"):
        small.samples([choices], among_choices=True)
    with pytest.raises(ConfigError, match="line 7: token 60"):
        EvalSamples.of([choices], small)


def test_a_sample_beyond_the_context_is_rejected_by_line(sampler: Sampler, tmp_path: Path) -> None:
    long = {"prompt": "w1" + " w1" * 4, "completion": " w2" * 4}
    examples = read(tmp_path, sampler, {"text": "w1 w2"}, long)
    short = replace(sampler, max_positions=7)
    with pytest.raises(
        ConfigError,
        match=r"line 2: the sample has 8 tokens, the context of .*tiny.* holds 7: set "
        r"`data.max_length` to at most 7",
    ):
        short.samples(examples)
    assert [len(s.token_ids) for s in replace(short, max_length=7).samples(examples)] == [2, 7]


def test_a_prompt_has_room_for_its_answer(sampler: Sampler, tmp_path: Path) -> None:
    examples = read(tmp_path, sampler, {"prompt": "w1" + " w1" * 8, "completion": " w2"})
    (prompt,) = sampler.prompts(examples, max_answer=4)
    assert prompt.token_ids == (1,) * 8
    with pytest.raises(ConfigError, match=r"line 1: .* 8 tokens and its answer up to 4, .* 7$"):
        replace(sampler, max_positions=11).prompts(examples, max_answer=4)
    nothing = TextExample("", "w1", where="data.jsonl, line 3")
    with pytest.raises(ConfigError, match="line 3: the prompt has no tokens"):
        sampler.prompts([nothing], max_answer=4)


def test_a_single_token_leaves_nothing_to_learn(sampler: Sampler, tmp_path: Path) -> None:
    examples = read(tmp_path, sampler, {"text": "w1 w2"}, {"text": "w1"})
    with pytest.raises(ConfigError, match="line 2: one token alone leaves nothing to learn"):
        sampler.samples(examples)


def test_choices_of_several_tokens_are_rejected_by_line(sampler: Sampler) -> None:
    example = TextExample("w1", " w2", (" w2", " w3 w4"), where="data.jsonl, line 5")
    with pytest.raises(
        ConfigError, match=r"line 5: `data.among_choices` needs choices of one token"
    ):
        sampler.samples([example], among_choices=True)


def test_tests_with_choices_are_measured_by_their_alternatives(sampler: Sampler) -> None:
    tests = [TextExample("w1", " w3", (" w2", " w3")), TextExample("w4", " w2", (" w2", " w3"))]
    found = EvalSamples.of(tests, sampler)
    assert found.right == [1, 0]
    assert found.groups[0] == [Sample((1, 2), 1), Sample((1, 3), 1)]
    assert EvalSamples.of([TextExample("w1", " w3")], sampler).groups == []


def test_samples_that_were_cut_are_counted(sampler: Sampler, tmp_path: Path) -> None:
    long = ({"prompt": "w1" + " w1" * 8, "completion": " w2"}, {"text": "w1 " * 9})
    fits = read(tmp_path, sampler, {"text": "w1 " * 8}, {"prompt": "w1", "completion": " w2" * 7})
    cut = read(tmp_path, sampler, *long)
    assert sampler.cut_note(sampler.samples(fits)) == ""
    samples = sampler.samples([*fits, *cut])
    wanted = "2 of 4 {}samples are longer than `data.max_length`, 8 tokens"
    assert wanted.format("") in sampler.cut_note(samples)
    assert wanted.format("evaluation ") in sampler.cut_note(samples, "evaluation ")
