"""What the shared-memory group promises beside the Group contract (tests/conformance)."""

import os
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from runtime.errors import ConfigError, PeerTimeout
from runtime.groups import shared_memory
from runtime.groups.shared_memory import FOLDER, SharedMemoryGroup, new_name, supported

pytestmark = pytest.mark.skipif(not supported(), reason="needs Linux on x86-64")


def make_pair(slot_bytes: int = 1 << 12) -> tuple[SharedMemoryGroup, SharedMemoryGroup]:
    name = new_name()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(
            SharedMemoryGroup.create,
            name,
            2,
            timeout_s=5.0,
            role="target",
            slot_bytes=slot_bytes,
        )
        second = pool.submit(SharedMemoryGroup.attach, name, 1, 2, timeout_s=5.0, role="target")
        pair = first.result(), second.result()
    assert not (FOLDER / name).exists()
    return pair


def test_a_name_that_is_taken_is_rejected_and_left_alone() -> None:
    path = FOLDER / new_name()
    path.write_text("another's")
    try:
        with pytest.raises(ConfigError, match="cannot create"):
            SharedMemoryGroup.create(path.name, 2, timeout_s=0.1, role="target")
        assert path.read_text() == "another's"
    finally:
        path.unlink()


def test_the_file_can_be_read_by_its_owner_only() -> None:
    name = new_name()
    creating = threading.Thread(target=_create_in_vain, args=(name,))
    creating.start()
    while not (FOLDER / name).exists():
        time.sleep(0.001)
    mode = (FOLDER / name).stat().st_mode & 0o777
    creating.join()
    assert mode == 0o600


def _create_in_vain(name: str) -> None:
    with pytest.raises(PeerTimeout, match=r"rank 1 .*never attached"):
        SharedMemoryGroup.create(name, 2, timeout_s=0.1, role="target")


def test_a_group_of_another_size_is_rejected() -> None:
    name = new_name()
    creating = threading.Thread(target=_create_in_vain, args=(name,))
    creating.start()
    with pytest.raises(ConfigError, match="has 2 ranks, rank 1 expects 3"):
        SharedMemoryGroup.attach(name, 1, 3, timeout_s=5.0, role="target")
    creating.join()


def test_a_file_that_is_not_ready_is_waited_for() -> None:
    path = FOLDER / new_name()
    path.write_bytes(struct.pack("<q", 0) * 64)
    try:
        with pytest.raises(PeerTimeout, match="rank 0 did not offer"):
            SharedMemoryGroup.attach(path.name, 1, 2, timeout_s=0.05, role="target")
    finally:
        path.unlink()


@pytest.mark.parametrize("slot_bytes", [0, 63, -64])
def test_a_slot_size_that_breaks_alignment_is_rejected(slot_bytes: int) -> None:
    with pytest.raises(ConfigError, match="slot_bytes"):
        SharedMemoryGroup.create(new_name(), 2, timeout_s=0.1, role="target", slot_bytes=slot_bytes)


def test_a_full_dev_shm_is_an_error_and_not_a_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    name = new_name()
    with pytest.raises(ConfigError, match="No space left"):
        SharedMemoryGroup.create(name, 2, timeout_s=0.1, role="target")
    assert not (FOLDER / name).exists()


def test_an_idle_member_costs_little_cpu() -> None:
    first, second = make_pair()
    waiting = threading.Thread(target=second.broadcast_bytes, args=(None,))
    waiting.start()
    time.sleep(0.3)  # past the spinning
    before_s = time.process_time()
    time.sleep(1.0)
    used_s = time.process_time() - before_s
    first.broadcast_bytes(b"continue")
    waiting.join()
    assert used_s < 0.1
    first.close()
    second.close()


def test_results_stay_good_after_close() -> None:
    first, second = make_pair()
    with ThreadPoolExecutor(2) as pool:
        ranks = pool.map(lambda group: group.all_gather(torch.ones(3)), (first, second))
        gathered = list(ranks)
    first.close()
    second.close()
    assert all(rows.eq(1).all() for rows in gathered)


def test_many_shapes_do_not_pile_up() -> None:
    first, second = make_pair()

    def run(group: SharedMemoryGroup) -> None:
        for count in range(1, 400):
            group.all_reduce(torch.ones(count))

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(run, (first, second)))
    assert len(first._views) <= shared_memory.MAX_VIEWS
    first.close()
    second.close()
