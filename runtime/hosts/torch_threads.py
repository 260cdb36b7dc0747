"""Threads and memory of torch in the process of a rank."""

import os

import torch


def use_huge_pages() -> None:
    """Make torch ask the kernel for huge pages for every buffer of 2 MiB and more.

    torch reads this at the process's first allocation. A step reads all weights once: with pages of
    4 KiB, looking them up took a tenth of its time (docs/measurements.md).
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def use_one_thread() -> None:
    """Use one thread for this thread's matrix products, as it only loads; see `use_threads`."""
    torch.set_num_threads(1)


def use_threads(num_threads: int) -> None:
    """Set how many threads run this thread's matrix products.

    Only the thread that serves gets more than one: OpenMP keeps a pool for each thread that ever
    used one, and with more threads than cores in all its pools it stops spinning between products.
    """
    torch.set_num_threads(num_threads)
