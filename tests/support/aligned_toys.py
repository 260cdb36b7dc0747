"""Toys whose outputs can be listed, and grammar-aligned sampling by its definition.

`Reference` is Algorithm 1 of Park et al. (arXiv 2405.21047) in a few lines: it keeps every row that
a sample read, and sums expected futures from the start each time.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import torch

from parallel.decoding.alignment import AlignedRows, AlignedSample
from parallel.decoding.constraint import ConstraintState, MaskedRows, legal_tokens
from parallel.decoding.expected_futures import FutureTree
from parallel.decoding.sampling import distribution
from parallel.decoding.score_row import ScoreRow
from parallel.decoding.types import DraftTree, SamplingParams, Verdict
from tests.support.automata import AutomatonState, either, seq, text, times

Words = tuple[int, ...]
Row = Callable[[Words], ScoreRow]
END = 0


@dataclass(frozen=True)
class Toy:
    """A model and a constraint with few outputs."""

    start: ConstraintState
    row: Row
    """The model's logits after a prefix of the output."""
    temperature: float = 1.0

    @property
    def sampling(self) -> SamplingParams:
        return SamplingParams(temperature=self.temperature, end_ids=(END,))


def fair_bits() -> Toy:
    """Five fair bits, of which 00000 and all that begin with 1 are legal."""
    bit = either(text("0"), text("1"))
    language = either(text("00000"), seq(text("1"), times(bit, 4, 4)))

    def row(prefix: Words) -> ScoreRow:
        done = len(prefix) == 5
        bits = -math.inf if done else 0.0
        return ScoreRow(torch.tensor([0.0 if done else -math.inf, bits, bits]), None)

    return Toy(AutomatonState(language, (None, b"0", b"1")), row)


def dyck_words(longest: int = 8, *, temperature: float = 1.0) -> Toy:
    """Balanced brackets, under a model that opens and closes at random."""
    words = {""}
    for _ in range(longest // 2):
        words |= {f"({one}){two}" for one in words for two in words if len(one + two) < longest - 1}

    @cache
    def row(prefix: Words) -> ScoreRow:
        rng = np.random.default_rng([len(prefix), *prefix])
        logits = torch.from_numpy(rng.normal(size=3)).float()
        logits[END] -= 3.0 if not prefix else 0.5
        return ScoreRow(logits, None)

    return Toy(AutomatonState(either(*map(text, words)), (None, b"(", b")")), row, temperature)


def conditional(toy: Toy) -> dict[Words, float]:
    """Return the model's own probabilities of the legal outputs, given that one is legal."""
    found: dict[Words, float] = {}

    def walk(path: Words, state: ConstraintState, prob: float) -> None:
        probs = (toy.row(path).logits.double() / toy.temperature).softmax(0).tolist()
        if state.is_complete:
            found[path] = prob * probs[END]
        for token in state.mask().nonzero()[0].tolist():
            walk((*path, token), state.advance(token), prob * probs[token])

    walk((), toy.start, 1.0)
    total = sum(found.values())
    return {path: prob / total for path, prob in found.items()}


def rows_after(
    toy: Toy, path: Words, state: ConstraintState, draft: DraftTree, tree: FutureTree
) -> AlignedRows:
    """Return the weighed rows of a draft after a path."""
    plain = [toy.row((*path, *draft.token_ids[:depth])) for depth in range(len(draft) + 1)]
    sample = AlignedSample(tree, toy.temperature)
    for token in path:
        sample.follow(token)
    return AlignedRows(plain, MaskedRows(plain, draft, state, (END,)), draft, sample)


def explore(toy: Toy, tree: FutureTree) -> None:
    """Take every legal output once."""
    for words in conditional(toy):
        state = toy.start
        for place, token in enumerate((*words, END)):
            rows = rows_after(toy, words[:place], state, DraftTree(), tree)
            rows.learn(Verdict(num_accepted=0, next_token=token), (END,))
            state = state if token == END else state.advance(token)


def sampled_from(toy: Toy, tree: FutureTree) -> dict[Words, float]:
    """Return the probability of each output of a sample with what a tree knows now."""
    found: dict[Words, float] = {}

    def walk(path: Words, state: ConstraintState, prob: float) -> None:
        row = rows_after(toy, path, state, DraftTree(), tree)[0]
        here = distribution(row, toy.sampling)
        for token, chance in zip(here.ids.tolist(), here.probs.tolist(), strict=True):
            if token == END:
                found[path] = prob * chance
            else:
                walk((*path, token), state.advance(token), prob * chance)

    walk((), toy.start, 1.0)
    return found


def divergence(true: dict[Words, float], found: dict[Words, float]) -> float:
    """Return the Kullback-Leibler divergence of what is found from what is true, in nats."""
    return sum(prob * math.log(prob / found[path]) for path, prob in true.items() if prob > 0)


@dataclass
class Reference:
    """Expected futures by their definition."""

    temperature: float
    end_ids: tuple[int, ...]
    read: dict[Words, tuple[list[float], list[bool]]] = field(default_factory=dict)
    """By prefix: the model's probabilities, and which tokens are legal."""

    def future(self, prefix: Words) -> float:
        if prefix not in self.read or prefix[-1:] in [(end,) for end in self.end_ids]:
            return 1.0
        probs, legal = self.read[prefix]
        return sum(
            probs[token] * self.future((*prefix, token))
            for token, is_legal in enumerate(legal)
            if is_legal
        )

    def weighed(self, prefix: Words, logits: torch.Tensor, state: ConstraintState) -> ScoreRow:
        """Return the row to sample from after a prefix, and remember it."""
        legal = legal_tokens(state, self.end_ids, len(logits)).tolist()
        found = [
            float(logit) + self.temperature * math.log(self.future((*prefix, token)))
            if is_legal
            else -math.inf
            for token, (logit, is_legal) in enumerate(zip(logits, legal, strict=True))
        ]
        probs = (logits.double() / self.temperature).softmax(0).tolist()
        self.read[prefix] = (probs, legal)
        return ScoreRow(torch.tensor(found), None)
