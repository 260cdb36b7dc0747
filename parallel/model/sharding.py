"""Which part of a model each tensor-parallel rank holds; parts need not be equal."""

from dataclasses import dataclass

UNIT = 16
"""Columns that vector kernels like to have together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadShard:
    """The attention heads of one rank: whole groups of query heads with their kv head.

    With more ranks than kv heads, several ranks hold a kv head and share its query heads out.
    """

    query: tuple[int, int]
    """First and one past the last query head."""
    kv: tuple[int, int]
    """First and one past the last kv head."""

    @property
    def num_query(self) -> int:
        """Query heads held."""
        return self.query[1] - self.query[0]

    @property
    def num_kv(self) -> int:
        """KV heads held."""
        return self.kv[1] - self.kv[0]


def head_shard(num_heads: int, num_kv_heads: int, size: int, rank: int) -> HeadShard:
    """Return the heads of one rank.

    Raises:
        ValueError: there are more ranks than query heads.
    """
    if size > num_heads:
        raise ValueError(
            f"{num_heads} query heads split over at most {num_heads} ranks, not over {size}"
        )
    group = num_heads // num_kv_heads
    if size <= num_kv_heads:
        first, stop = even_range(num_kv_heads, size, rank)
        return HeadShard(query=(first * group, stop * group), kv=(first, stop))
    # Invert the split: which kv head's stretch of ranks does this rank lie in?
    for head in range(num_kv_heads):
        first_rank, stop_rank = even_range(size, num_kv_heads, head)
        if first_rank <= rank < stop_rank:
            first, stop = even_range(group, stop_rank - first_rank, rank - first_rank)
            query = (head * group + first, head * group + stop)
            return HeadShard(query=query, kv=(head, head + 1))
    raise ValueError(f"rank {rank} is not below the size {size}")


def padded_range(total: int, size: int, rank: int) -> tuple[int, int]:
    """Return a rank's stretch in whole units of 16, or of one where some rank would get nothing.

    Raises:
        ValueError: there are more ranks than `total`.
    """
    if size > total:
        raise ValueError(f"{total} columns split over at most {total} ranks, not over {size}")
    return even_range(total, size, rank, UNIT if -(-total // UNIT) >= size else 1)


def even_range(total: int, size: int, rank: int, multiple: int = 1) -> tuple[int, int]:
    """Return the stretch of `range(total)` that a rank holds; sizes differ by at most one unit.

    Args:
        total: what is split.
        size: the number of ranks.
        rank: whose part.
        multiple: parts are whole units of so many, except where `total` is not.
    """
    if not 0 <= rank < size:
        raise ValueError(f"rank {rank} is not below the size {size}")
    units = -(-total // multiple)
    small, larger = divmod(units, size)
    first = rank * small + min(rank, larger)
    stop = first + small + (rank < larger)
    return min(first * multiple, total), min(stop * multiple, total)
