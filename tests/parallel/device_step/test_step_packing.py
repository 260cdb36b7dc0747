"""A packed step says what its sequences say, by their own definitions."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parallel.batch import SequenceRows, TokenDraw, path_to
from parallel.decoding.types import RngKey
from parallel.device_step.step_packing import (
    NO_TREE,
    PackingRules,
    SequenceStep,
    Words,
    max_tiles,
    needed_shape,
    pack,
)
from parallel.device_step.step_shape import StepArrays, StepShape
from parallel.model.pages import PageTable
from tests.support.ragged_batches import visible_tokens
from tests.support.ragged_strategies import rows_of, sequence_rows

WINDOWS = (None, 5)
GARBAGE = 0x55555555


@st.composite
def steps_of(draw: st.DrawFn) -> tuple[list[SequenceStep], PackingRules]:
    rules = PackingRules(
        page_size=draw(st.sampled_from((1, 4, 16))),
        windows=WINDOWS,
        tile_rows=draw(st.sampled_from((1, 4, 16))),
    )
    rows = draw(st.lists(sequence_rows(60, max_nodes=40), min_size=1, max_size=6))
    free = draw(st.permutations(range(sum(pages_of(r, rules) for r in rows))))
    steps = []
    for number, row in enumerate(rows):
        pages = [free.pop() for _ in range(pages_of(row, rules))]
        key = RngKey(seed=2**64 - 1 - number, request=2**63 + number)
        drawn = TokenDraw(key=key, position=7, temperature=0.7)
        steps.append(SequenceStep(rows=replace(row, draw=drawn), pages=pages))
    return steps, rules


def pages_of(rows: SequenceRows, rules: PackingRules) -> int:
    return -(-(rows.start + len(rows.token_ids)) // rules.page_size)


def padded(shape: StepShape, rules: PackingRules) -> StepShape:
    rows, sequences = shape.rows + 5, shape.sequences + 2
    return shape.wider(
        rows=rows,
        sequences=sequences,
        pages=shape.pages + 3,
        tiles=max_tiles(rows, sequences, rules.tile_rows),
        scored=shape.scored + 4,
        nodes=shape.nodes + 30,
        moves=shape.moves + 2,
    )


def packed(steps: list[SequenceStep], rules: PackingRules, shape: StepShape) -> StepArrays[Words]:
    return pack(steps, shape, rules, np.full(shape.num_words, GARBAGE, dtype=np.int32))


@given(steps_of(), st.booleans())
def test_each_row_sees_what_its_sequence_defines(
    drawn: tuple[list[SequenceStep], PackingRules], pads: bool
) -> None:
    steps, rules = drawn
    needed = needed_shape(steps, rules)
    arrays = packed(steps, rules, padded(needed, rules) if pads else needed)
    row = 0
    for number, step in enumerate(steps):
        length = step.rows.start + len(step.rows.token_ids)
        for own in range(len(step.rows.token_ids)):
            for kind, window in enumerate(WINDOWS):
                first, stop, end = arrays.ranges[kind, row].tolist()
                words = arrays.bits[kind, row].view(np.uint32).tolist()
                bits = sum(word << 32 * place for place, word in enumerate(words))
                tree = int(arrays.trees[number])
                seen = set(range(first, stop))
                seen |= {tree + node for node in range(bits.bit_length()) if bits >> node & 1}
                assert seen == set(visible_tokens(step.rows, own, window))
                assert end == max(seen) + 1 == step.rows.start + own + 1
                assert first <= min(seen)
            row += 1
        table = PageTable(list(step.pages), rules.page_size, length)
        here = slice(row - len(step.rows.token_ids), row)
        assert arrays.addresses[here].tolist() == table.addresses(step.rows.start, length)
        assert arrays.positions[here].tolist() == step.rows.positions
        assert arrays.token_ids[here].tolist() == list(step.rows.token_ids)
        assert arrays.tables[number, : len(step.pages)].tolist() == list(step.pages)
    assert not arrays.ranges[:, row:].any(), "padding rows see nothing"
    assert not arrays.bits[:, row:].any()
    assert (arrays.addresses[row:] == -1).all(), "padding rows store nothing"


@given(steps_of(), st.booleans())
def test_every_row_is_in_one_tile_of_its_sequence(
    drawn: tuple[list[SequenceStep], PackingRules], pads: bool
) -> None:
    steps, rules = drawn
    needed = needed_shape(steps, rules)
    shape = padded(needed, rules) if pads else needed
    owners = [number for number, step in enumerate(steps) for _ in step.rows.token_ids]
    found: list[int] = []
    for sequence, first, count in packed(steps, rules, shape).tiles.tolist():
        assert count <= rules.tile_rows
        assert count == 0 or first == len(found)
        found += [sequence] * count
    assert found[: len(owners)] == owners
    assert len(found) == shape.rows


@given(steps_of())
def test_each_scored_row_has_its_draw_and_its_place_in_the_draft(
    drawn: tuple[list[SequenceStep], PackingRules],
) -> None:
    steps, rules = drawn
    shape = padded(needed_shape(steps, rules), rules)
    arrays = packed(steps, rules, shape)
    stop = 0
    for number, step in enumerate(steps):
        rows, stop = step.rows, stop + len(step.rows.token_ids)
        first, count = arrays.drafts[number].tolist()
        assert count == rows.num_logits
        if not count:
            continue
        assert arrays.scored[first : first + count].tolist() == list(range(stop - count, stop))
        nodes = rows.token_ids[len(rows.token_ids) - count + 1 :]
        assert arrays.node_tokens[number, : count - 1].tolist() == list(nodes)
        draws = np.ascontiguousarray(arrays.draws[first : first + count]).view(np.int64)
        assert rows.draw is not None
        assert (draws[:, 0].view(np.uint64) == rows.draw.key.seed).all()
        assert (draws[:, 1].view(np.uint64) == rows.draw.key.request).all()
        assert (draws[:, 3].copy().view(np.float64) == 0.7).all()
        parents = arrays.node_parents[number].tolist()
        for node in range(-1, count - 1):
            assert draws[node + 1, 2] == 7 + len(path_to(parents, node))
            position = rows.positions[len(rows.token_ids) - count + 1 + node]
            assert position - rows.positions[len(rows.token_ids) - count] == draws[node + 1, 2] - 7
    assert not arrays.drafts[len(steps) :].any(), "padding sequences verify nothing"


def test_a_sequence_without_a_tree_has_it_beyond_every_position() -> None:
    rules = PackingRules(page_size=4, windows=(None,), tile_rows=4)
    step = SequenceStep(rows=rows_of(3, 2), pages=[1, 0])
    assert packed([step], rules, needed_shape([step], rules)).trees.tolist() == [NO_TREE]


def test_the_accepted_path_of_a_tree_moves_to_just_before_the_first_row() -> None:
    rules = PackingRules(page_size=4, windows=(None,), tile_rows=4)
    plain = SequenceStep(rows=rows_of(3, 2), pages=[9])
    rows = replace(rows_of(6, 1, 1), moves=(5, 9))
    plain = replace(plain, pages=[9, 8])
    step = SequenceStep(rows=rows, pages=[5, 2, 7])
    steps = [plain, step, plain]
    arrays = packed(steps, rules, padded(needed_shape(steps, rules), rules))
    assert arrays.move_offsets.tolist() == [0, 0, 2, 2, 2, 2]
    table = PageTable([5, 2, 7], 4)
    expected = [(table.address(5), table.address(4)), (table.address(9), table.address(5))]
    assert [tuple(move) for move in arrays.moves[:2].tolist()] == expected


def test_too_few_pages_are_rejected() -> None:
    rules = PackingRules(page_size=4, windows=(None,), tile_rows=4)
    step = SequenceStep(rows=rows_of(7, 2), pages=[1, 2])
    with pytest.raises(ValueError, match="has 2 pages of 4 for 9 tokens"):
        packed([step], rules, needed_shape([step], rules))


def test_a_step_that_does_not_fit_is_rejected() -> None:
    rules = PackingRules(page_size=4, windows=(None,), tile_rows=4)
    step = SequenceStep(rows=rows_of(7, 2), pages=[1, 2, 3])
    shape = needed_shape([step], rules)
    with pytest.raises(ValueError, match="does not fit"):
        packed([step, step], rules, shape)


def test_a_tree_that_grows_sees_its_cached_nodes_and_verifies_nothing() -> None:
    rules = PackingRules(page_size=4, windows=(None,), tile_rows=4)
    rows = SequenceRows(
        slot=0, start=5, token_ids=(8, 9), num_logits=2, parents=(-1, 0, -1, 1, 2), draw=None
    )
    step = SequenceStep(rows=rows, pages=[1, 0])
    arrays = packed([step], rules, needed_shape([step], rules))
    assert arrays.trees.tolist() == [2]
    assert arrays.ranges[0].tolist() == [[0, 2, 6], [0, 2, 7]]
    assert arrays.bits[0, :, 0].tolist() == [0b01011, 0b10100]
    assert arrays.scored.tolist() == [0, 1]
    assert not arrays.drafts.any()
