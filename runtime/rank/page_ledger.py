"""Rank 0's record of its group's cache: which sequence holds which pages."""

from collections.abc import Iterable, Sequence

from parallel.batch import SequenceRows
from parallel.model.prefix import SharedPages
from runtime.rank.step_plan import SlotOpening, StepPlan


class SlotLedger:
    """Allocates pages, and collects openings and releases for the next step plan.

    Sequences with a common prefix share pages, and the pages of a closed sequence stay in the
    prefix cache until they are evicted (`parallel/model/prefix.py`).
    """

    def __init__(self, *, num_pages: int, page_size: int, shares: bool = True) -> None:
        """Start with an empty cache.

        Args:
            num_pages: pages of the cache.
            page_size: tokens of a page.
            shares: whether sequences share the pages of a common prefix.
        """
        self.num_pages = num_pages
        self._page_size = page_size
        self._shares = shares
        self._shared = SharedPages(num_pages, page_size)
        self._held: dict[int, list[int]] = {}
        self._frees: list[int] = []
        self._openings: dict[int, SlotOpening] = {}
        self._sent: set[int] = set()
        self._num_recorded: dict[int, int] = {}
        self._adapters: dict[int, str] = {}
        """What computes each open sequence."""

    @property
    def capacity(self) -> int:
        """Tokens the whole cache holds."""
        return self.num_pages * self._page_size

    @property
    def num_available_pages(self) -> int:
        """Pages that no sequence holds."""
        return self._shared.num_available

    def fits(self, num_tokens: int, token_ids: Sequence[int] = (), adapter: str = "") -> bool:
        """Return whether a sequence of this capacity that begins with these tokens fits now."""
        found = self._match(token_ids, adapter)
        needed = self._num_pages(num_tokens) - len(found)
        return needed <= self._shared.available_beside(found)

    def can_ever_fit(self, num_tokens: int) -> bool:
        """Return whether the empty cache would hold a sequence of this length."""
        return self._num_pages(num_tokens) <= self.num_pages

    def open(
        self, slot: int, capacity: int, token_ids: Sequence[int] = (), adapter: str = ""
    ) -> int:
        """Allocate pages of a new sequence; `fits` must be true.

        Args:
            slot: the sequence's number.
            capacity: tokens it can grow to.
            token_ids: its tokens so far.
            adapter: the name of the adapter that computes it; "" is the model alone.

        Returns:
            How many of the tokens are cached already; never all of them.
        """
        found = self._match(token_ids, adapter)
        self._adapters[slot] = adapter
        self._shared.use(found)
        pages = found + self._shared.allocate(self._num_pages(capacity) - len(found))
        self._held[slot] = pages
        length = len(found) * self._page_size
        self._openings[slot] = SlotOpening(slot=slot, pages=tuple(pages), length=length)
        return length

    def grow(self, slot: int, capacity: int) -> bool:
        """Grow an open sequence to a capacity; return False if too few pages are free."""
        held = self._held[slot]
        missing = self._num_pages(capacity) - len(held)
        if missing <= 0:
            return True
        if missing > self._shared.num_available:
            return False
        more = self._shared.allocate(missing)
        held += more
        opening = self._openings.get(slot, SlotOpening(slot=slot, pages=()))
        self._openings[slot] = SlotOpening(
            slot=slot, pages=(*opening.pages, *more), length=opening.length
        )
        return True

    def record(self, slot: int, token_ids: Sequence[int], length: int) -> None:
        """Record that the first `length` tokens of a sequence are final and cached."""
        num_whole = length // self._page_size
        if self._shares and num_whole > self._num_recorded.get(slot, 0) and slot in self._held:
            final = token_ids[: num_whole * self._page_size]
            self._shared.record(self._held[slot], final, self._adapters[slot])
            self._num_recorded[slot] = num_whole

    def close(self, slot: int) -> None:
        """Free the pages of a slot; do nothing if it is not open."""
        pages = self._held.pop(slot, None)
        if pages is None:
            return
        self._shared.release(pages)
        self._openings.pop(slot, None)
        self._num_recorded.pop(slot, None)
        self._adapters.pop(slot, None)
        if slot in self._sent:
            self._sent.remove(slot)
            self._frees.append(slot)

    def plan(
        self,
        rows: Iterable[SequenceRows] = (),
        num_candidates: Iterable[int | None] = (),
        *,
        width: int = 1,
        stop: bool = False,
    ) -> StepPlan:
        """Return the next plan, with all openings and releases since the last one."""
        frees, self._frees = tuple(self._frees), []
        openings, self._openings = tuple(self._openings.values()), {}
        self._sent.update(opening.slot for opening in openings)
        return StepPlan(
            frees=frees,
            openings=openings,
            rows=tuple(rows),
            num_candidates=tuple(num_candidates),
            width=width,
            stop=stop,
        )

    def _match(self, token_ids: Sequence[int], adapter: str) -> list[int]:
        # The last token must be read for its logits.
        return self._shared.match(token_ids[:-1], adapter) if self._shares else []

    def _num_pages(self, num_tokens: int) -> int:
        return max(1, -(-num_tokens // self._page_size))
