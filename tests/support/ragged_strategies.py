"""Hypothesis strategies for the rows of ragged batches."""

from hypothesis import strategies as st

from parallel.batch import SequenceRows


@st.composite
def trees(draw: st.DrawFn, max_nodes: int) -> tuple[int, ...]:
    """Draw the parents of a draft tree."""
    num_nodes = draw(st.integers(1, max_nodes))
    return tuple(draw(st.integers(-1, node - 1)) for node in range(num_nodes))


@st.composite
def sequence_rows(
    draw: st.DrawFn, max_length: int, max_rows: int = 24, max_nodes: int = 12
) -> SequenceRows:
    """Draw a prefill chunk, a single row, a chain of drafts, or a tree of them."""
    kind = draw(st.sampled_from(("prefill", "single", "chain", "tree")))
    if kind == "tree":
        parents = draw(trees(max_nodes))
        before = draw(st.integers(1, 2))
        start = draw(st.integers(0, max_length - len(parents) - before))
        num_tokens = before + len(parents)
        num_logits = len(parents) + draw(st.integers(1, before))
        return rows_of(start, num_tokens, num_logits, parents)
    num_tokens = 1 if kind == "single" else draw(st.integers(1, min(max_rows, max_length)))
    start = draw(st.integers(0, max_length - num_tokens))
    num_logits = draw(st.integers(0, 1)) if kind == "prefill" else num_tokens
    return rows_of(start, num_tokens, num_logits)


def rows_of(
    start: int, num_tokens: int, num_logits: int = 0, parents: tuple[int, ...] = ()
) -> SequenceRows:
    """Return rows whose tokens are 1, 2, 3..."""
    return SequenceRows(
        slot=0,
        start=start,
        token_ids=tuple(range(1, num_tokens + 1)),
        num_logits=num_logits,
        parents=parents,
    )
