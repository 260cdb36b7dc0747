"""Drafters that do what no drafter should: raise anywhere, and return nonsense of every kind."""

import asyncio
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from parallel.decoding.types import SparseProbs
from parallel.messages import DraftRequest, ProposalItem
from runtime.drafters.drafting import Drafter, DraftPart

RAISED: tuple[Callable[[], BaseException], ...] = (
    lambda: RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
    lambda: IndexError("index out of range in self"),
    lambda: MemoryError(),
    lambda: SystemExit(3),
    lambda: asyncio.CancelledError(),
    lambda: KeyError(7),
)
Mutation = Callable[[ProposalItem, random.Random], ProposalItem]


class Wrapped:
    """A drafter that behaves as another one; the base of those that do not."""

    def __init__(self, inner: Drafter, seed: int, *, rate: float) -> None:
        self.inner = inner
        self.chooser = random.Random(seed)
        self.rate = rate
        self.num_faults = 0

    grows_trees = property(lambda self: self.inner.grows_trees)
    num_successors = property(lambda self: self.inner.num_successors)
    step_s = property(lambda self: self.inner.step_s)
    width = property(lambda self: self.inner.width)

    def answer(self, request: DraftRequest) -> Iterator[DraftPart]:
        yield from self.inner.answer(request)

    def keep_alive(self) -> None:
        self.inner.keep_alive()

    def close(self) -> None:
        self.inner.close()

    def is_due(self) -> bool:
        due = self.chooser.random() < self.rate
        self.num_faults += due
        return due


class RaisingDrafter(Wrapped):
    """Raises at random calls: before a draft, between its parts, after it, and when closed."""

    def answer(self, request: DraftRequest) -> Iterator[DraftPart]:
        self.maybe_raise()
        for part in self.inner.answer(request):
            yield part
            self.maybe_raise()

    def keep_alive(self) -> None:
        self.maybe_raise()

    def close(self) -> None:
        raise self.chooser.choice(RAISED)()

    def maybe_raise(self) -> None:
        if self.is_due():
            raise self.chooser.choice(RAISED)()


class FuzzingDrafter(Wrapped):
    """Returns what a sound drafter does, and now and then something mutated.

    Mutations never look at which token was drawn: a drafter that lies by token cannot be told from
    an honest one with other probabilities.
    """

    def __init__(self, inner: Drafter, seed: int, *, rate: float, only: str = "") -> None:
        super().__init__(inner, seed, rate=rate)
        self.only = only

    def answer(self, request: DraftRequest) -> Iterator[DraftPart]:
        for part in self.inner.answer(request):
            if not self.is_due():
                yield part
                continue
            name = self.only or self.chooser.choice([*ITEMS, *PARTS])
            if name in ITEMS:
                items = tuple(ITEMS[name](item, self.chooser) for item in part.items)
                yield replace(part, items=items)
            else:
                yield from PARTS[name](part)


def probs(*values: float) -> SparseProbs:
    return SparseProbs(ids=tuple(range(len(values))), probs=values)


def _with_probs(next_probs: SparseProbs) -> Mutation:
    return lambda item, _: replace(item, draft_probs=(next_probs,) * len(item.token_ids))


ITEMS: dict[str, Mutation] = {
    "ids out of range": lambda item, _: replace(item, token_ids=(*item.token_ids, 10**6)),
    "negative ids": lambda item, _: replace(item, token_ids=(-1, *item.token_ids)),
    "ids that are no numbers": lambda item, _: replace(item, token_ids=_any(("a", None, 1.5))),
    "no ids at all": lambda item, _: replace(item, token_ids=_any(None)),
    "too many tokens": lambda item, _: replace(item, token_ids=item.token_ids + (5,) * 300),
    "another request": lambda item, _: replace(item, request=item.request + 1000),
    "a request of no type": lambda item, _: replace(item, request=_any([1])),
    "another epoch": lambda item, c: replace(item, epoch=item.epoch + c.choice([-1, 1])),
    "another base": lambda item, c: replace(item, base=item.base + c.choice([-3, 1, 10**9])),
    "unknown": lambda item, _: replace(item, unknown=True),
    "a tree that was not asked for": lambda item, _: replace(
        item, parents=(-1,) * len(item.token_ids)
    ),
    "parents in no order": lambda item, _: replace(
        item, parents=tuple(range(len(item.token_ids), 0, -1))
    ),
    "too few parents": lambda item, _: replace(item, parents=(-1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9)),
    "NaN probabilities": _with_probs(probs(float("nan"), 0.5)),
    "infinite probabilities": _with_probs(probs(float("inf"), 0.5)),
    "negative probabilities": _with_probs(probs(*[1.0] * 30, *[-1.0] * 18, -11.0)),
    "unnormalized probabilities": _with_probs(probs(*[0.5] * 48)),
    "probabilities beyond the vocabulary": _with_probs(probs(*[1 / 100] * 100)),
    "too few probabilities": lambda item, _: replace(item, draft_probs=item.draft_probs[:-1]),
    "probabilities of no type": lambda item, _: replace(item, draft_probs=_any((1,) * 9)),
    "NaN gains": lambda item, _: replace(item, gains=(float("nan"),) * len(item.token_ids)),
    "too few gains": lambda item, _: replace(item, gains=(0.5,)),
}

PARTS: dict[str, Callable[[DraftPart], Iterator[DraftPart]]] = {
    "no items": lambda part: iter([replace(part, items=())]),
    "items of no type": lambda part: iter([replace(part, items=_any(7))]),
    "items twice": lambda part: iter([replace(part, items=part.items * 2)]),
    "a million items": lambda part: iter([replace(part, items=part.items * 10**6)]),
    "the whole part twice": lambda part: iter([part, part]),
    "parts without end": lambda part: (replace(part, partial=True) for _ in range(10**6)),
    "steps without measure": lambda part: iter([replace(part, num_steps=10**400)]),
    "steps below none": lambda part: iter([replace(part, num_steps=-1)]),
    "no part": lambda _: iter([]),
    "a part of no type": lambda _: iter([_any(None)]),
}


def _any(value: object) -> Any:
    return value
