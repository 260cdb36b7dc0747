from dataclasses import dataclass

from parallel.drafting.legal import ForcedSource, LegalSource
from parallel.drafting.tree import Guess, Odds, Source, grow
from tests.support.automata import AutomatonState, either, text

END, A, B, AB, C, D = range(6)
TOKENS = (None, b"a", b"b", b"ab", b"c", b"d")


@dataclass(frozen=True)
class Fixed:
    """Guesses the same tokens everywhere."""

    tokens: tuple[int, ...]

    def root(self) -> int:
        return 0

    def guesses(self, _: int) -> list[Guess]:
        return [Guess(token, ("fixed",), 0.9) for token in self.tokens]

    def advance(self, state: int, token: int) -> int | None:  # noqa: ARG002
        return state + 1


def chain(*sources: Source, budget: int = 8) -> list[int]:
    return grow(sources, Odds(), budget, branching=False).token_ids


def test_forced_tokens_are_a_chain_that_ends_with_the_end_token() -> None:
    state = AutomatonState(text("ccdc"), TOKENS)
    assert chain(ForcedSource(state, (END,))) == [C, C, D, C, END]


def test_nothing_is_forced_where_the_output_may_continue_or_end() -> None:
    state = AutomatonState(either(text("c"), text("cd")), TOKENS)
    assert chain(ForcedSource(state, (END,))) == [C]


def test_another_sources_illegal_guesses_are_left_out() -> None:
    state = AutomatonState(either(text("abc"), text("c")), TOKENS)
    plain, bound = Fixed((D, C, A)), LegalSource(Fixed((D, C, A)), state, (END,))
    assert [guess.token for guess in plain.guesses(0)] == [D, C, A]
    assert [guess.token for guess in bound.guesses(bound.root())] == [C, A]
    after_a = bound.advance(bound.root(), A)
    assert bound.guesses(after_a) == []
    assert bound.advance(bound.root(), D) is None


def test_the_end_token_is_a_legal_guess_exactly_where_the_output_is_complete() -> None:
    state = AutomatonState(text("c"), TOKENS)
    bound = LegalSource(Fixed((END, C)), state, (END,))
    assert [guess.token for guess in bound.guesses(bound.root())] == [C]
    complete = bound.advance(bound.root(), C)
    assert [guess.token for guess in bound.guesses(complete)] == [END]
    assert bound.advance(complete, END) is None


def test_a_forced_stretch_continues_what_other_sources_guess() -> None:
    state = AutomatonState(either(text("dcc"), text("abcd")), TOKENS)
    sources: list[Source] = [
        LegalSource(Fixed((D,)), state, (END,)),
        ForcedSource(state, (END,)),
    ]
    assert chain(*sources) == [D, C, C, END]
