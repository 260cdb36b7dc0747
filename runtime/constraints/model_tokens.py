"""What constraints need of a model's tokenizer: its definition, and the text that each token adds.

llguidance works out the bytes of tokens by itself, from the decoder in tokenizer.json. They are
compared with those that a user is shown: a constraint on other bytes would hold for another text.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from llguidance import LLTokenizer

from runtime.constraints.compilation import TokenizerText
from runtime.models.detokenizer import Detokenizer
from runtime.models.tokenizer import Tokenizer

_SPACE = b" "


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelTokens:
    """A model's tokens as constraints see them."""

    text: TokenizerText
    spell: Callable[[int], bytes]
    """Returns what a token adds to a text that it does not begin."""
    drops_first_space: bool
    """Whether a text that begins with a space is shown without it (SentencePiece)."""


def model_tokens(tokenizer: Tokenizer, *, vocab_size: int, end_ids: Iterable[int]) -> ModelTokens:
    """Return what constraints need of a tokenizer.

    Args:
        tokenizer: the model's.
        vocab_size: of the model, whose last tokens may be in no text.
        end_ids: the model's end tokens.
    """
    return ModelTokens(
        text=TokenizerText(
            definition=tokenizer.definition,
            vocab_size=vocab_size,
            end_ids=tuple(sorted(end_ids)),
        ),
        spell=tokenizer.token_bytes,
        drops_first_space=_drops_first_space(tokenizer),
    )


def check_spelling(tokens: ModelTokens, opened: LLTokenizer) -> None:
    """Check that llguidance spells each token as the model's text does.

    Tokens that llguidance takes for special ones are in no constrained output, and are left out.

    Raises:
        ValueError: it spells one otherwise; names the token.
    """
    for token in range(tokens.text.vocab_size):
        if opened.is_special_token(token):
            continue
        theirs, ours = opened.decode_bytes([token]), tokens.spell(token)
        if theirs != ours:
            raise ValueError(
                "the model's tokenizer does not support constraints: llguidance reads token "
                f"{token} as {theirs!r}, and it is {ours!r} in a text"
            )


def _drops_first_space(tokenizer: Tokenizer) -> bool:
    """Return whether the first token of a text loses its space; no token with one: it cannot."""
    for token in sorted(tokenizer.vocabulary.values()):
        spelled = tokenizer.token_bytes(token)
        if spelled.startswith(_SPACE) and spelled.isascii():
            decoder = Detokenizer(tokenizer.decoding)
            shown = decoder.push((token,)) + decoder.finish()
            return shown.encode() == spelled[len(_SPACE) :]
    return False
