"""Texts whose tokens a model scores: the answers to questions, or whole texts."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from runtime.checking.values import text
from runtime.errors import ConfigError
from runtime.files.strict_json import read_json_lines
from runtime.models.completions import encode_completion, render_answer
from runtime.models.tokenizer import Tokenizer

SAMPLE_TEXTS = Path(__file__).with_name("sample_texts.jsonl")
"""Prose, answers, arithmetic and code in English, written for this package."""
_FORMS = "write question and answer, or text"


@dataclass(frozen=True, slots=True)
class ScoredText:
    """A text as tokens."""

    token_ids: tuple[int, ...]
    num_given: int
    """Tokens at its start that are read and not scored; at least one."""

    @property
    def num_scored(self) -> int:
        """Number of tokens that are scored."""
        return len(self.token_ids) - self.num_given


def read_scored_texts(
    file: Path, tokenizer: Tokenizer, *, limit: int | None, max_tokens: int, chat: bool
) -> list[ScoredText]:
    """Read the texts of a .jsonl file, each cut after `max_tokens`.

    Args:
        file: a line has `question` and `answer`, of which the answer is scored, or `text`.
        tokenizer: the model's.
        limit: how many are read, the first ones; None reads all.
        max_tokens: the longest text.
        chat: make a conversation of question and answer.

    Raises:
        ConfigError: the file cannot be read or has no text, or a line is invalid; names the line.
    """
    found: list[ScoredText] = []
    for line, record in read_json_lines(file, kind="text file"):
        if len(found) == limit:
            break
        try:
            scored = _tokens(record, tokenizer, chat=chat, max_tokens=max_tokens)
        except ConfigError as error:
            raise ConfigError(f"{file}, line {line}: {error}") from error
        found.append(scored)
    if not found:
        raise ConfigError(f"text file {file} is empty: write one JSON object a line")
    return found


def _tokens(
    record: Mapping[str, object], tokenizer: Tokenizer, *, chat: bool, max_tokens: int
) -> ScoredText:
    if "question" in record:
        question, answer = text(record["question"], "`question`"), _answer(record)
        if chat:
            turns = ({"role": "user", "content": question},)
            whole = render_answer(tokenizer, (*turns, {"role": "assistant", "content": answer}))
            parts = encode_completion(tokenizer, whole.prompt, whole.completion, whole=False)
        else:
            parts = encode_completion(tokenizer, f"{question}\n", answer, whole=True)
    elif "text" in record:
        parts = encode_completion(tokenizer, "", text(record["text"], "`text`"), whole=True)
    else:
        raise ConfigError(f"the object has neither question nor text: {_FORMS}")
    token_ids = (parts.prompt_ids + parts.completion_ids)[:max_tokens]
    num_given = max(1, len(parts.prompt_ids))  # nothing precedes the first token of a text
    if num_given >= len(token_ids):
        raise ConfigError(
            f"no token of the text is left to score after the {num_given} before it, of at most "
            f"{max_tokens}: raise `max_tokens`"
        )
    return ScoredText(token_ids, num_given)


def _answer(record: Mapping[str, object]) -> str:
    if "answer" not in record:
        raise ConfigError(f"the object has a question without an answer: {_FORMS}")
    return text(record["answer"], "`answer`")
