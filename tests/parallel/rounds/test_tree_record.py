import pytest

from parallel.rounds.tree_record import MAX_NODES, TreeRecord


def test_trees_shrink_where_little_is_tested_and_grow_with_what_is() -> None:
    record = TreeRecord()
    assert record.budget == 12
    for _ in range(40):
        record.test([0.5])
        record.observe(0)
    assert record.budget == 4
    sizes = []
    for _ in range(4):
        record.test([0.9] * record.budget)
        sizes.append(record.budget)
    assert sizes == [8, 16, MAX_NODES, MAX_NODES]


@pytest.mark.parametrize(("accepted", "share"), [(2, 1.0), (1, 1.0), (0, 0.0)])
def test_gains_are_believed_as_far_as_they_came_true(accepted: int, share: float) -> None:
    record = TreeRecord()
    assert record.share == 1
    for _ in range(300):
        record.test([0.6, 0.4])
        record.observe(accepted)
    assert record.share == pytest.approx(share, abs=0.15)


def test_gains_that_come_true_half_as_often_are_believed_half() -> None:
    record = TreeRecord()
    for number in range(300):
        record.test([0.5])
        record.observe(int(number % 4 == 0))
    assert record.share == pytest.approx(0.6, abs=0.1)  # the prior still counts a little


def test_an_untested_tree_says_nothing_of_gains() -> None:
    record = TreeRecord()
    record.test([])
    record.observe(0)
    assert record.share == 1
