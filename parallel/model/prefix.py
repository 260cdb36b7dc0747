"""The prefix cache: which pages of a KV cache are in use, which hold known tokens, which are free.

Sequences with a common prefix share its pages (SGLang's RadixAttention, Zheng et al., arXiv
2312.07104, section 3). Only whole pages are shared, and a shared page is never written again. An
unused page keeps its tokens until the page is needed; the least recently used are evicted first.
"""

from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from parallel.model.pages import CacheFull, PageAllocator

_MAX_EVICTIONS = 4
"""Up to this many times the needed pages are evicted to get contiguous ones."""


@dataclass(frozen=True, slots=True)
class _Known:
    """The contents of a page: its tokens, and the page that holds the tokens before them."""

    before: int
    """The page before it; -1 for the first."""
    serial: int
    """The serial number of `before` when this was recorded: pages are reused."""
    token_ids: tuple[int, ...]
    adapter: str
    """What computed them: keys and values of one adapter are wrong for all others."""


@dataclass(slots=True)
class SharedPages:
    """Tracks the pages of a cache: their users, their contents, and which are free."""

    num_pages: int
    page_size: int
    _allocator: PageAllocator = field(init=False)
    _users: Counter[int] = field(default_factory=Counter)
    _pages: dict[_Known, int] = field(default_factory=dict)
    _contents: dict[int, _Known] = field(default_factory=dict)
    _serials: Counter[int] = field(default_factory=Counter)
    _unused: OrderedDict[int, None] = field(default_factory=OrderedDict)
    """Known pages without a user, the least recently used first."""

    def __post_init__(self) -> None:
        """Start with all pages free."""
        self._allocator = PageAllocator(self.num_pages)

    @property
    def num_available(self) -> int:
        """The number of pages without a user."""
        return self._allocator.num_free + len(self._unused)

    def match(self, token_ids: Sequence[int], adapter: str = "") -> list[int]:
        """Return the whole pages that hold the longest known prefix of these tokens.

        Args:
            token_ids: the tokens.
            adapter: the name of the adapter that computes them; "" is the model alone.
        """
        found: list[int] = []
        before = -1
        for start in range(0, len(token_ids) - self.page_size + 1, self.page_size):
            page = self._pages.get(self._key(before, token_ids, start, adapter))
            if page is None:
                break
            found.append(page)
            before = page
        return found

    def available_beside(self, pages: Sequence[int]) -> int:
        """Return how many further pages could be allocated once these are in use."""
        return self.num_available - sum(page in self._unused for page in pages)

    def use(self, pages: Sequence[int]) -> None:
        """Add a user to known pages."""
        for page in pages:
            self._unused.pop(page, None)
            self._users[page] += 1

    def allocate(self, num_pages: int) -> list[int]:
        """Return unshared pages for a new user, contiguous if possible.

        Raises:
            CacheFull: fewer are available.
        """
        if num_pages > self.num_available:
            raise CacheFull(num_pages, self.num_available)
        if num_pages == 0:
            return []
        while self._allocator.num_free < num_pages:
            self._evict()
        for _ in range(_MAX_EVICTIONS):  # contiguous pages are worth more than old prefixes
            if self._allocator.has_run(num_pages):
                break
            for _ in range(min(num_pages, len(self._unused))):
                self._evict()
        taken = self._allocator.allocate(num_pages)
        self.use(taken)
        return taken

    def record(self, pages: Sequence[int], token_ids: Sequence[int], adapter: str = "") -> None:
        """Record what a sequence's pages hold; only whole pages are recorded.

        Args:
            pages: the sequence's pages, in order.
            token_ids: its final cached tokens, from the first one on.
            adapter: what computed them.
        """
        before = -1
        for index, page in enumerate(pages[: len(token_ids) // self.page_size]):
            key = self._key(before, token_ids, index * self.page_size, adapter)
            known = self._pages.get(key)
            if known is None and page not in self._contents:
                self._pages[key] = page
                self._contents[page] = key
            before = page if known is None else known

    def release(self, pages: Sequence[int]) -> None:
        """Remove a user from pages; known pages keep their tokens until they are evicted."""
        for page in reversed(pages):  # a prefix is more useful than what follows it
            self._users[page] -= 1
            if self._users[page]:
                continue
            del self._users[page]
            if page in self._contents:
                self._unused[page] = None
            else:
                self._allocator.free([page])

    def _evict(self) -> None:
        page, _ = self._unused.popitem(last=False)
        del self._pages[self._contents.pop(page)]
        self._serials[page] += 1  # pages recorded as following it are no longer found
        self._allocator.free([page])

    def _key(self, before: int, token_ids: Sequence[int], start: int, adapter: str) -> _Known:
        tokens = tuple(token_ids[start : start + self.page_size])
        return _Known(before, self._serials[before], tokens, adapter)
