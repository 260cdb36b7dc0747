"""Which part of a model each tensor-parallel rank holds; parts may differ in size."""

from dataclasses import dataclass

UNIT = 32
"""Columns that share a scale in stored weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadShard:
    """The attention heads of one rank: whole groups of query heads with their kv head.

    With more ranks than kv heads, several ranks hold the same kv head and divide its query heads.
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
    # Invert the split: which kv head has this rank in its range of ranks?
    for head in range(num_kv_heads):
        first_rank, stop_rank = even_range(size, num_kv_heads, head)
        if first_rank <= rank < stop_rank:
            first, stop = even_range(group, stop_rank - first_rank, rank - first_rank)
            query = (head * group + first, head * group + stop)
            return HeadShard(query=query, kv=(head, head + 1))
    raise ValueError(f"rank {rank} is not below the size {size}")


def padded_range(total: int, size: int, rank: int) -> tuple[int, int]:
    """Return a rank's range in units of 32, or of 1 where a rank would otherwise get nothing.

    Raises:
        ValueError: there are more ranks than `total`.
    """
    if size > total:
        raise ValueError(f"{total} columns split over at most {total} ranks, not over {size}")
    return even_range(total, size, rank, UNIT if -(-total // UNIT) >= size else 1)


def even_range(total: int, size: int, rank: int, multiple: int = 1) -> tuple[int, int]:
    """Return the part of `range(total)` that a rank holds; sizes differ by at most one unit.

    Args:
        total: the size of the whole.
        size: the number of ranks.
        rank: the rank whose part to return.
        multiple: the size of a unit; only the last part may hold less than whole units.
    """
    if not 0 <= rank < size:
        raise ValueError(f"rank {rank} is not below the size {size}")
    units = -(-total // multiple)
    small, larger = divmod(units, size)
    first = rank * small + min(rank, larger)
    stop = first + small + (rank < larger)
    return min(first * multiple, total), min(stop * multiple, total)
