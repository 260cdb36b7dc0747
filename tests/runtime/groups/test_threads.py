"""The group of threads that tests use: wrong use is an error on every rank, not a hang."""

import threading
from collections.abc import Callable

import pytest
import torch

from runtime.errors import PacelineError, PeerLost, PeerTimeout, ShapeError
from runtime.groups.threads import ThreadGroup


def run(*work: Callable[[ThreadGroup], object], timeout_s: float = 30.0) -> list[object]:
    """Return what each rank's call returned or raised."""
    members = ThreadGroup.make(len(work), timeout_s)
    found: list[object] = [None] * len(work)

    def call(rank: int) -> None:
        try:
            found[rank] = work[rank](members[rank])
        except PacelineError as error:
            found[rank] = error
            members[rank].close()

    threads = [threading.Thread(target=call, args=(rank,)) for rank in range(len(work))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_ranks_at_different_operations_are_an_error() -> None:
    found = run(
        lambda group: group.all_reduce(torch.ones(2)),
        lambda group: group.broadcast_bytes(None),
    )
    assert all(isinstance(error, ShapeError) for error in found)


def test_ranks_with_different_shapes_are_an_error() -> None:
    found = run(*(lambda group: group.all_gather(torch.ones(1 + group.rank)),) * 3)
    assert sum(isinstance(error, ShapeError) for error in found) >= 2


def test_a_rank_that_leaves_is_named_to_those_that_wait() -> None:
    first, second = ThreadGroup.make(2, 30.0)
    second.close()
    with pytest.raises(PeerLost, match=r"target rank 1 \(thread\) closed its group"):
        first.all_reduce(torch.ones(1))


def test_a_rank_that_does_not_come_is_named_after_the_deadline() -> None:
    first, _ = ThreadGroup.make(2, 0.01, role="drafter")
    with pytest.raises(PeerTimeout, match=r"drafter rank 1 \(thread\) did not answer within 0.01"):
        first.all_reduce(torch.ones(1))


def test_a_gathered_tensor_does_not_change_with_its_source() -> None:
    def gather(group: ThreadGroup) -> torch.Tensor:
        mine = torch.full((2,), float(group.rank))
        found = group.all_gather(mine)
        mine.fill_(9.0)
        group.all_reduce(torch.ones(1))
        return found

    for found in run(gather, gather):
        assert isinstance(found, torch.Tensor)
        assert found.tolist() == [[0.0, 0.0], [1.0, 1.0]]
