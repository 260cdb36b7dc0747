"""Which pages of a KV cache are in use, which hold known tokens, and which are free.

Sequences that begin alike share the pages of what they have in common, as automatic prefix caching
does (SGLang's RadixAttention, Zheng et al., arXiv 2312.07104, section 3). Only whole pages are
shared, and none that is shared is ever written again. A page that nobody uses keeps its tokens
until the room is needed; the longest unused go first.
"""

from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from parallel.model.pages import CacheFull, PageAllocator

_MOST_EVICTED = 4
"""Times as many unused pages as are needed that are given up to have neighbours."""


@dataclass(frozen=True, slots=True)
class _Known:
    """What a page holds: its tokens, after those of the page before it."""

    before: int
    """The page before it; -1 for the first."""
    serial: int
    """Of `before`, when this was noted: pages are used again."""
    token_ids: tuple[int, ...]


@dataclass(slots=True)
class SharedPages:
    """The account of a cache's pages: users, contents, and what is free."""

    num_pages: int
    page_size: int
    _allocator: PageAllocator = field(init=False)
    _users: Counter[int] = field(default_factory=Counter)
    _pages: dict[_Known, int] = field(default_factory=dict)
    _contents: dict[int, _Known] = field(default_factory=dict)
    _serials: Counter[int] = field(default_factory=Counter)
    _unused: OrderedDict[int, None] = field(default_factory=OrderedDict)
    """Known pages without a user, the longest unused first."""

    def __post_init__(self) -> None:
        """Start with every page free."""
        self._allocator = PageAllocator(self.num_pages)

    @property
    def num_available(self) -> int:
        """Pages that nobody uses."""
        return self._allocator.num_free + len(self._unused)

    def match(self, token_ids: Sequence[int]) -> list[int]:
        """Return the pages that hold the first of these tokens, as many whole ones as are known."""
        found: list[int] = []
        before = -1
        for start in range(0, len(token_ids) - self.page_size + 1, self.page_size):
            page = self._pages.get(self._key(before, token_ids, start))
            if page is None:
                break
            found.append(page)
            before = page
        return found

    def available_beside(self, pages: Sequence[int]) -> int:
        """Return how many pages could be taken beside these, once they are in use."""
        return self.num_available - sum(page in self._unused for page in pages)

    def use(self, pages: Sequence[int]) -> None:
        """Count another user of pages that are known."""
        for page in pages:
            self._unused.pop(page, None)
            self._users[page] += 1

    def take(self, num_pages: int) -> list[int]:
        """Return pages for a new user alone, neighbours if that can be had.

        Raises:
            CacheFull: fewer are available.
        """
        if num_pages > self.num_available:
            raise CacheFull(num_pages, self.num_available)
        if num_pages == 0:
            return []
        while self._allocator.num_free < num_pages:
            self._evict()
        for _ in range(_MOST_EVICTED):  # neighbours are worth giving up what may be asked again
            if self._allocator.has_run(num_pages):
                break
            for _ in range(min(num_pages, len(self._unused))):
                self._evict()
        taken = self._allocator.take(num_pages)
        self.use(taken)
        return taken

    def note(self, pages: Sequence[int], token_ids: Sequence[int]) -> None:
        """Say what a sequence's pages hold; only whole ones are kept in mind.

        Args:
            pages: the sequence's pages, in order.
            token_ids: its tokens from the first one on, as far as they are cached for good.
        """
        before = -1
        for index, page in enumerate(pages[: len(token_ids) // self.page_size]):
            key = self._key(before, token_ids, index * self.page_size)
            known = self._pages.get(key)
            if known is None and page not in self._contents:
                self._pages[key] = page
                self._contents[page] = key
            before = page if known is None else known

    def release(self, pages: Sequence[int]) -> None:
        """Count a user of pages less; what is known stays while there is room."""
        for page in reversed(pages):  # a prefix is of more use than what follows it
            self._users[page] -= 1
            if self._users[page]:
                continue
            del self._users[page]
            if page in self._contents:
                self._unused[page] = None
            else:
                self._allocator.give_back([page])

    def _evict(self) -> None:
        page, _ = self._unused.popitem(last=False)
        del self._pages[self._contents.pop(page)]
        self._serials[page] += 1  # what was noted as following it is found no longer
        self._allocator.give_back([page])

    def _key(self, before: int, token_ids: Sequence[int], start: int) -> _Known:
        tokens = tuple(token_ids[start : start + self.page_size])
        return _Known(before, self._serials[before], tokens)
