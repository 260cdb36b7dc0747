"""A model's tokens as llguidance has them, from which the starts of constraints are compiled."""

from functools import partial

from llguidance import LLTokenizer

from parallel.decoding.constraint import ConstraintState
from runtime.constraints.compilation import compiled, open_tokenizer
from runtime.constraints.first_space import SpacedStart, SpacedTokens
from runtime.constraints.grammar_state import GrammarState, KnownTokens
from runtime.constraints.model_tokens import ModelTokens, check_spelling


class OpenedTokens:
    """The tokens of a model, checked once."""

    def __init__(self, tokens: ModelTokens) -> None:
        """Open them; takes a second with a large vocabulary.

        Raises:
            ValueError: llguidance reads them otherwise than the model's text is shown.
        """
        text = tokens.text
        opened = open_tokenizer(text)
        check_spelling(tokens, opened)
        self._known = KnownTokens(opened, text.vocab_size, text.end_ids)
        self._spaced: SpacedTokens | None = None
        if tokens.drops_first_space:
            ids = (token for token in range(text.vocab_size) if not opened.is_special_token(token))
            self._spaced = SpacedTokens(tokens.spell, ids, partial(_spelled, opened))

    def start(self, grammar: str) -> ConstraintState:
        """Return the state at the start of an output.

        Raises:
            ValueError: the grammar cannot be compiled, or a limit is reached.
        """
        found = GrammarState(compiled(grammar, self._known.tokenizer), self._known)
        return found if self._spaced is None else SpacedStart(found, self._spaced)


def _spelled(opened: LLTokenizer, text: bytes) -> list[int] | None:
    """Return tokens that spell a text; None if there are none."""
    try:
        found = opened.greedy_tokenize(text.decode())
    except UnicodeDecodeError:
        return None
    return found if opened.decode_bytes(found) == text else None
