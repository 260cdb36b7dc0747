"""Which pages of a KV cache belong to which sequence: bookkeeping without tensors.

Pages as in PagedAttention (Kwon et al., arXiv 2309.06180, section 4). A run of neighbouring pages
is preferred, because then attention reads the cache without copying it.
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
    def is_run(self) -> bool:
        """Whether the pages are neighbours, in order."""
        first = self.pages[0]
        return self.pages == list(range(first, first + len(self.pages)))

    def place(self, index: int) -> int:
        """Return the place in the cache of token `index`."""
        return self.pages[index // self.page_size] * self.page_size + index % self.page_size

    def places(self, first: int, stop: int) -> list[int]:
        """Return the places in the cache of tokens `first` to `stop`, in order."""
        return [self.place(index) for index in range(first, stop)]


@dataclass(slots=True)
class PageAllocator:
    """Hands out pages and takes them back."""

    num_pages: int
    _free: list[int] = field(init=False)

    def __post_init__(self) -> None:
        """Start with every page free."""
        self._free = list(range(self.num_pages))

    @property
    def num_free(self) -> int:
        """Pages nobody holds."""
        return len(self._free)

    def take(self, num_pages: int) -> list[int]:
        """Return `num_pages` pages in rising order, neighbours if there is such a run.

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
        """Tell whether so many neighbouring pages are free."""
        first = self._first_run(num_pages)
        run = self._free[first : first + num_pages]
        return len(run) == num_pages and run[-1] - run[0] == num_pages - 1

    def give_back(self, pages: list[int]) -> None:
        """Take pages back."""
        self._free = sorted(self._free + pages)

    def _first_run(self, num_pages: int) -> int:
        """Return where in the free list the first long enough run starts; 0 if there is none."""
        for first in range(len(self._free) - num_pages + 1):
            if self._free[first + num_pages - 1] - self._free[first] == num_pages - 1:
                return first
        return 0
