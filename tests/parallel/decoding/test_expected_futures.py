import math
from itertools import pairwise

import pytest
import torch

from parallel.decoding.expected_futures import FutureTree

ALL = torch.tensor([True, True, True, True])
SOME = torch.tensor([False, True, True, False])
UNIFORM = torch.full((4,), math.log(0.25), dtype=torch.float64)


def test_nothing_is_known_of_a_prefix_that_no_sample_read() -> None:
    tree = FutureTree()
    assert tree.root.log_future == 0
    tree.extend(tree.root, 1, UNIFORM, SOME)
    assert tree.root.children[1].log_future == 0


def test_a_future_is_the_sum_over_legal_tokens() -> None:
    tree = FutureTree()
    tree.extend(tree.root, 1, UNIFORM, SOME)
    assert math.exp(tree.root.log_future) == pytest.approx(0.5)
    below = tree.root.children[1]
    tree.extend(below, 2, UNIFORM, SOME)
    assert math.exp(below.log_future) == pytest.approx(0.5)
    assert math.exp(tree.root.log_future) == pytest.approx(0.25 + 0.25 * 0.5)
    tree.extend(tree.root, 2, UNIFORM, SOME)
    assert math.exp(tree.root.log_future) == pytest.approx(0.25 + 0.25 * 0.5)
    tree.extend(tree.root.children[2], 3, UNIFORM, torch.tensor([False, False, False, True]))
    assert math.exp(tree.root.log_future) == pytest.approx(0.25 * 0.25 + 0.25 * 0.5)


def test_a_token_that_was_taken_before_changes_nothing() -> None:
    tree = FutureTree()
    tree.extend(tree.root, 1, UNIFORM, SOME)
    tree.extend(tree.root, 1, UNIFORM, ALL)
    assert math.exp(tree.root.log_future) == pytest.approx(0.5)
    assert tree.num_nodes == 2


def test_a_sample_that_ends_teaches_what_else_may_follow() -> None:
    tree = FutureTree()
    tree.extend(tree.root, None, UNIFORM, SOME)
    assert tree.root.is_read
    assert math.exp(tree.root.log_future) == pytest.approx(0.5)
    tree.extend(tree.root, None, UNIFORM, ALL)
    assert math.exp(tree.root.log_future) == pytest.approx(0.5)


def test_futures_too_small_for_a_float_keep_their_logarithm() -> None:
    tree = FutureTree()
    rare = torch.tensor([-1.0e-9, -700.0, -700.0, -700.0], dtype=torch.float64)
    node = tree.root
    for _ in range(3000):  # deeper than Python's recursion
        tree.extend(node, 1, rare, torch.tensor([False, True, False, False]))
        node = node.children[1]
    assert tree.root.log_future == pytest.approx(-700.0 * 3000)


def test_a_full_tree_learns_of_the_nodes_it_has_alone() -> None:
    tree = FutureTree(max_nodes=2)
    tree.extend(tree.root, 1, UNIFORM, SOME)
    tree.extend(tree.root, 2, UNIFORM, SOME)
    assert set(tree.root.children) == {1}
    tree.extend(tree.root.children[1], 2, UNIFORM, SOME)
    assert tree.num_nodes == 2
    assert math.exp(tree.root.log_future) == pytest.approx(0.25 + 0.25 * 0.5)


def test_every_prefix_of_a_path_is_at_most_as_likely_as_before() -> None:
    tree = FutureTree()
    seen = [tree.root.log_future]
    node = tree.root
    for _ in range(20):
        tree.extend(node, 1, UNIFORM, SOME)
        seen.append(tree.root.log_future)
        node = node.children[1]
    assert all(later <= earlier for earlier, later in pairwise(seen))
