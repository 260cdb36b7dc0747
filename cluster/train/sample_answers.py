"""Answers to some prompts of the evaluation file, for people to read while a job runs."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from parallel.training.adamw import Vector
from runtime.errors import ConfigError
from runtime.files.documents import read_text
from runtime.files.strict_json import parse_object
from runtime.models.tokenizer import Tokenizer
from runtime.training.training_data import Sample

ANSWERS = "samples.jsonl"
_SHOWN = 60
Answerer = Callable[[Vector, Sequence[tuple[int, ...]]], list[list[int]]]
"""Returns the tokens of a greedy answer to each prompt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleAnswer:
    """An answer to a prompt at a step."""

    step: int
    prompt: str
    answer: str
    wanted: str
    """The answer in the evaluation file."""

    def __str__(self) -> str:
        """Return it on one short line."""
        prompt, answer = " ".join(self.prompt.split()), " ".join(self.answer.split())
        return f"{prompt[-_SHOWN:]} ⟦{answer[:_SHOWN]}⟧"


class SampleAnswers:
    """Asks the model some prompts."""

    def __init__(self, samples: Sequence[Sample], tokenizer: Tokenizer, answerer: Answerer) -> None:
        """Ask the prompts of these samples."""
        self._samples = samples
        self._tokenizer = tokenizer
        self._answerer = answerer

    def at(self, step: int, parameters: Vector) -> list[SampleAnswer]:
        """Return the answers of the weights after a step."""
        if not self._samples:
            return []
        prompts = [sample.token_ids[: sample.num_prompt] for sample in self._samples]
        decode = self._tokenizer.decode
        return [
            SampleAnswer(
                step=step,
                prompt=decode(prompt),
                answer=decode(answer),
                wanted=decode(sample.token_ids[slice(*sample.parts[0])]),
            )
            for sample, prompt, answer in zip(
                self._samples, prompts, self._answerer(parameters, prompts), strict=True
            )
        ]


def add_answers(directory: Path, answers: Sequence[SampleAnswer]) -> None:
    """Append answers to samples.jsonl."""
    with (directory / ANSWERS).open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(asdict(one), ensure_ascii=False) + "\n" for one in answers)


def cut_answers(directory: Path, step: int) -> None:
    """Drop the answers after the state from which a job resumes."""
    file = directory / ANSWERS
    if not file.exists():
        return
    kept = [line for line in read_text(file).split("\n") if line and _is_until(line, step)]
    fresh = file.with_name(f"{file.name}.new")
    fresh.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
    fresh.replace(file)


def _is_until(line: str, step: int) -> bool:
    """Return whether a line is whole, and of a step up to this one."""
    try:
        found = parse_object(line, ANSWERS).get("step")
    except ConfigError:
        return False
    return isinstance(found, int) and found <= step
