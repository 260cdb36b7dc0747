"""Threads with streams of their own leave that of the others as it was."""

import threading

import pytest
import torch

from runtime.device_streams import own_stream


def test_a_cpu_has_no_streams() -> None:
    with own_stream("cpu"):
        assert torch.ones(2).sum() == 2


@pytest.mark.gpu
def test_a_thread_has_a_stream_of_its_own_behind_what_was_begun() -> None:
    weights = torch.ones(2**20, device="cuda").mul_(3)
    shared = torch.cuda.current_stream()
    found: list[tuple[bool, float]] = []

    def work() -> None:
        with own_stream("cuda"):
            is_shared = torch.cuda.current_stream() == shared
            found.append((is_shared, float(weights.sum())))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [(False, 3.0 * 2**20)]
    assert torch.cuda.current_stream() == shared
