"""The page tables and the allocator of a KV cache, without tensors.

Pages as in PagedAttention (Kwon et al., arXiv 2309.06180, section 4). Contiguous pages are
preferred, because attention then reads the cache without copying it.
"""

from dataclasses import dataclass, field

from parallel.errors import PacelineError


class CacheFull(PacelineError):
    """A sequence needs more pages than are free."""

    def __init__(self, needed_pages: int, free_pages: int) -> None:
        super().__init__(f"{needed_pages} cache pages are needed, {free_pages} are free")
        self.needed_pages = needed_pages
        self.free_pages = free_pages


@dataclass(slots=True)
class PageTable:
    """The pages of one sequence and how many of its tokens they hold."""

    pages: list[int]
    page_size: int
    length: int = 0

    @property
    def capacity(self) -> int:
        """Tokens the pages can hold."""
        return len(self.pages) * self.page_size

    @property
    def is_contiguous(self) -> bool:
        """Whether the pages follow one another in the cache."""
        first = self.pages[0]
        return self.pages == list(range(first, first + len(self.pages)))

    def address(self, index: int) -> int:
        """Return the address in the cache of token `index`."""
        return self.pages[index // self.page_size] * self.page_size + index % self.page_size

    def addresses(self, first: int, stop: int) -> list[int]:
        """Return the addresses in the cache of tokens `first` to `stop`, in order."""
        return [self.address(index) for index in range(first, stop)]


@dataclass(slots=True)
class PageAllocator:
    """Allocates and frees pages."""

    num_pages: int
    _free: list[int] = field(init=False)

    def __post_init__(self) -> None:
        """Start with every page free."""
        self._free = list(range(self.num_pages))

    @property
    def num_free(self) -> int:
        """The number of free pages."""
        return len(self._free)

    def allocate(self, num_pages: int) -> list[int]:
        """Return `num_pages` pages in increasing order, contiguous if such pages are free.

        Raises:
            CacheFull: fewer are free.
        """
        if num_pages > len(self._free):
            raise CacheFull(num_pages, len(self._free))
        first = self._first_run(num_pages)
        taken = self._free[first : first + num_pages]
        del self._free[first : first + num_pages]
        return taken

    def has_run(self, num_pages: int) -> bool:
        """Return whether this many contiguous pages are free."""
        first = self._first_run(num_pages)
        run = self._free[first : first + num_pages]
        return len(run) == num_pages and run[-1] - run[0] == num_pages - 1

    def free(self, pages: list[int]) -> None:
        """Free pages."""
        self._free = sorted(self._free + pages)

    def _first_run(self, num_pages: int) -> int:
        """Return the index in the free list of the first long enough run; 0 if there is none."""
        for first in range(len(self._free) - num_pages + 1):
            if self._free[first + num_pages - 1] - self._free[first] == num_pages - 1:
                return first
        return 0
