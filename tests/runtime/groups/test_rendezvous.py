"""Descriptions of groups: what can be made, and which backend a device gets."""

import pytest

from parallel.group import SoloGroup
from runtime.errors import ConfigError
from runtime.groups.rendezvous import GroupSpec, choose_backend, join_group, offer_group
from runtime.groups.shared_memory import supported


@pytest.mark.parametrize(
    ("backend", "size", "timeout_s", "words"),
    [
        ("mpi", 2, 1.0, "group backend is 'mpi': it must be one of"),
        ("solo", 2, 1.0, "a solo group cannot have 2 ranks"),
        ("gloo", 0, 1.0, "a gloo group cannot have 0 ranks"),
        ("shm", 2, 0.0, "timeout_s is 0.0: it must be above 0"),
    ],
)
def test_a_group_that_cannot_exist_is_rejected(
    backend: str, size: int, timeout_s: float, words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        GroupSpec(backend=backend, role="target", size=size, timeout_s=timeout_s)


def test_a_group_of_one_needs_no_backend() -> None:
    offer = offer_group("drafter", 1, backend="nccl", timeout_s=1.0)
    assert offer.spec.backend == "solo"
    assert isinstance(offer.join(), SoloGroup)


@pytest.mark.parametrize("rank", [-1, 2])
def test_a_rank_outside_its_group_is_rejected(rank: int) -> None:
    spec = GroupSpec(backend="shm", role="target", size=2, timeout_s=1.0, name="unused")
    with pytest.raises(ConfigError, match=f"rank {rank} is not in a target group of 2"):
        join_group(spec, rank)


def test_each_offer_has_a_name_that_cannot_be_guessed() -> None:
    first, second = (offer_group("target", 2, backend="shm", timeout_s=1.0) for _ in range(2))
    assert first.spec.name != second.spec.name
    assert len(first.spec.name) >= 16


def test_gpus_get_nccl_and_one_host_gets_shared_memory() -> None:
    assert choose_backend("cuda", same_host=True) == "nccl"
    assert choose_backend("cuda:1", same_host=False) == "nccl"
    assert choose_backend("cpu", same_host=False) == "gloo"
    assert choose_backend("cpu", same_host=True) == ("shm" if supported() else "gloo")
