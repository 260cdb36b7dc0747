"""Rank 0's account of its group's cache: who holds pages, and what the next plan must carry."""

from collections.abc import Iterable

from parallel.model.batch import SequenceRows
from runtime.plan import SlotOpening, StepPlan


class SlotLedger:
    """Counts pages and gathers openings and releases until a step plan takes them along."""

    def __init__(self, *, num_pages: int, page_size: int) -> None:
        self._num_pages = num_pages
        self._page_size = page_size
        self._held: dict[int, int] = {}
        self._frees: list[int] = []
        self._openings: dict[int, SlotOpening] = {}

    @property
    def capacity(self) -> int:
        """Tokens the whole cache holds."""
        return self._num_pages * self._page_size

    def fits(self, num_tokens: int) -> bool:
        """Tell whether a sequence of that capacity could be opened now."""
        return self._pages(num_tokens) <= self._num_pages - sum(self._held.values())

    def can_ever_fit(self, num_tokens: int) -> bool:
        """Tell whether the empty cache would hold it."""
        return self._pages(num_tokens) <= self._num_pages

    def open(self, slot: int, capacity: int) -> None:
        """Reserve pages; the caller has asked `fits`."""
        assert self.fits(capacity)
        self._held[slot] = self._pages(capacity)
        self._openings[slot] = SlotOpening(slot=slot, capacity=capacity)

    def close(self, slot: int) -> None:
        """Release a slot; one that is not open is ignored."""
        if self._held.pop(slot, None) is None:
            return
        if self._openings.pop(slot, None) is None:
            self._frees.append(slot)

    def plan(
        self,
        rows: Iterable[SequenceRows] = (),
        num_candidates: Iterable[int] = (),
        *,
        stop: bool = False,
    ) -> StepPlan:
        """Make the next plan, with every opening and release since the last one."""
        frees, self._frees = tuple(self._frees), []
        openings, self._openings = tuple(self._openings.values()), {}
        return StepPlan(
            frees=frees,
            openings=openings,
            rows=tuple(rows),
            num_candidates=tuple(num_candidates),
            stop=stop,
        )

    def _pages(self, num_tokens: int) -> int:
        return -(-num_tokens // self._page_size)
