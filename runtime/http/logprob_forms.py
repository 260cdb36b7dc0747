"""Log probabilities in OpenAI's two forms, with the text of each token."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from parallel.decoding.types import TokenLogprobs
from runtime.models.tokenizer import Tokenizer


def chat_logprobs(
    tokenizer: Tokenizer, token_ids: Sequence[int], logprobs: Sequence[TokenLogprobs]
) -> dict[str, Any]:
    """Return the log probabilities of a chat answer's tokens."""
    return {
        "content": [
            _chat_token(tokenizer, token, found.logprob)
            | {
                "top_logprobs": [
                    _chat_token(tokenizer, top_id, logprob)
                    for top_id, logprob in zip(found.top_ids, found.top_logprobs, strict=True)
                ]
            }
            for token, found in zip(token_ids, logprobs, strict=True)
        ],
        "refusal": None,
    }


def completion_logprobs(
    tokenizer: Tokenizer,
    token_ids: Sequence[int],
    logprobs: Sequence[TokenLogprobs],
    *,
    offset: int,
) -> dict[str, Any]:
    """Return the log probabilities of a completion's tokens.

    Args:
        tokenizer: decodes the tokens.
        token_ids: the tokens.
        logprobs: one for each token.
        offset: characters of the tokens before these.
    """
    texts = [_text(tokenizer, token) for token in token_ids]
    offsets = list(accumulate(map(len, texts[:-1]), initial=offset))[: len(texts)]
    return {
        "tokens": texts,
        "token_logprobs": [found.logprob for found in logprobs],
        "top_logprobs": [
            {
                _text(tokenizer, top_id): logprob
                for top_id, logprob in zip(found.top_ids, found.top_logprobs, strict=True)
            }
            for found in logprobs
        ],
        "text_offset": offsets,
    }


def num_characters(tokenizer: Tokenizer, token_ids: Sequence[int]) -> int:
    """Return how many characters the texts of tokens have, as `completion_logprobs` counts."""
    return sum(len(_text(tokenizer, token)) for token in token_ids)


def _chat_token(tokenizer: Tokenizer, token: int, logprob: float) -> dict[str, Any]:
    data = tokenizer.token_bytes(token)
    return {"token": data.decode(errors="replace"), "logprob": logprob, "bytes": list(data)}


def _text(tokenizer: Tokenizer, token: int) -> str:
    """Return a token's text; a part of a character as OpenAI writes it, "bytes:\\\\xe2"."""
    data = tokenizer.token_bytes(token)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)
