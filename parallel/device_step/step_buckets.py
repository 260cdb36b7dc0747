"""The shapes for which a step is recorded in advance: every step takes the smallest that covers it.

CUDA graphs replay a step of one shape; between the shapes, rows are padded.
"""

from dataclasses import dataclass

from parallel.device_step.step_packing import max_tiles
from parallel.device_step.step_shape import StepShape

_MIN_PAGES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class StepLimits:
    """The largest step that is recorded."""

    rows: int
    sequences: int
    pages: int
    """Pages of the longest context."""
    nodes: int
    """Draft tokens of a sequence."""
    kinds: int
    """Kinds of attention."""
    tile_rows: int
    """Rows of an attention tile."""


class StepBuckets:
    """The recorded shapes: powers of two of rows and of pages, up to the limits."""

    def __init__(self, limits: StepLimits) -> None:
        self._limits = limits
        self._rows = _doubled(1, limits.rows)
        self._pages = _doubled(min(_MIN_PAGES, limits.pages), limits.pages)

    @property
    def shapes(self) -> list[StepShape]:
        """All shapes, the largest first, so that later ones fit into the memory of the first."""
        return [self._shape(r, p) for r in reversed(self._rows) for p in reversed(self._pages)]

    def choose(self, needed: StepShape) -> StepShape | None:
        """Return the smallest shape that covers a step; None if it is beyond the limits."""
        rows = next((size for size in self._rows if size >= needed.rows), None)
        pages = next((size for size in self._pages if size >= needed.pages), None)
        if rows is None or pages is None:
            return None
        shape = self._shape(rows, pages)
        return shape if shape.covers(needed) else None

    def _shape(self, rows: int, pages: int) -> StepShape:
        limits = self._limits
        sequences = min(rows, limits.sequences)
        return StepShape(
            rows=rows,
            sequences=sequences,
            pages=pages,
            tiles=max_tiles(rows, sequences, limits.tile_rows),
            scored=min(rows, sequences * (limits.nodes + 1)),
            nodes=limits.nodes,
            moves=sequences * limits.nodes,
            kinds=limits.kinds,
        )


def _doubled(first: int, last: int) -> list[int]:
    sizes = [first]
    while sizes[-1] < last:
        sizes.append(min(2 * sizes[-1], last))
    return sizes
