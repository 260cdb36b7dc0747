"""A constraint on the toy's 48 tokens: an automaton, and the constrained target alone."""

import string
from collections.abc import Callable

from parallel.decoding.constraint import ConstraintState, masked
from parallel.decoding.rng import request_key
from parallel.decoding.sampling import sample
from parallel.decoding.score_row import ScoreRow
from parallel.decoding.types import ConstraintKind, ConstraintSpec, RngKey
from parallel.messages import Submit
from runtime.constraints.compiler import Compiled
from runtime.errors import InvalidValue
from runtime.rank.toy_shard import prefix_logits
from tests.support.automata import AutomatonState, any_of, either, many, seq, text, times
from tests.support.rig import VOCAB

END = 0
PAIRS = ("ke", "ey", "y=", "va", "al", ";;", "ab", "ba", "cd", "ef", "gh", "ij", "kl", "mn", "op")
TOKENS: tuple[bytes | None, ...] = (
    None,
    *(letter.encode() for letter in string.ascii_lowercase),
    *(one.encode() for one in (*PAIRS, "=", ";", "0", "1", "2", "3")),
)
LETTERS = any_of(string.ascii_lowercase)
RECORD = seq(
    text("key="),
    times(LETTERS, 2, 9),
    text(";"),
    either(text("val"), text("alt")),
    any_of("0123"),
    text(";"),
)
SPEC = ConstraintSpec(kind=ConstraintKind.REGEX, text="(key=[a-z]{2,9};(val|alt)[0-3];)+")
START = AutomatonState(seq(RECORD, RECORD, many(RECORD)), TOKENS)
assert len(TOKENS) == VOCAB


class ToyConstraints:
    """Knows one constraint, and compiles it at once."""

    def __init__(self, start: ConstraintState = START) -> None:
        self.start = start
        self.is_closed = False

    def compile(self, spec: ConstraintSpec, done: Callable[[Compiled], None]) -> None:
        found = self.find(spec)
        done(InvalidValue("`regex` cannot be used") if found is None else found)

    def find(self, spec: ConstraintSpec) -> ConstraintState | None:
        is_known = (spec.kind, spec.text) == (SPEC.kind, SPEC.text)
        return self.start if is_known else None

    def close(self) -> None:
        self.is_closed = True


def constrained_tokens(submit: Submit, start: ConstraintState = START) -> tuple[list[int], bool]:
    """The constrained target alone, token by token, and whether its output is complete."""
    tokens, state = list(submit.prompt_ids), start
    key = RngKey(seed=submit.sampling.seed, request=request_key(submit.prompt_ids, sample_index=0))
    for position in range(submit.max_tokens):
        row = masked(ScoreRow(prefix_logits(tokens, VOCAB), None), state, (END,))
        tokens.append(sample(row, submit.sampling, key, position, tokens))
        if tokens[-1] == END:
            break
        state = state.advance(tokens[-1])
    return tokens[len(submit.prompt_ids) :], state.is_complete
