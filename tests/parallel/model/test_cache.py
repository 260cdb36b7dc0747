"""The KV cache: what was stored is what is read, in one stretch or scattered."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from parallel.model.cache import SoleCache, cache_bytes
from parallel.model.pages import CacheFull


def new_cache(num_pages: int = 6) -> SoleCache:
    return SoleCache(num_layers=2, num_kv_heads=2, head_dim=4, num_pages=num_pages, page_size=4)


def store(cache: SoleCache, slot: int, start: int, values: Tensor) -> tuple[Tensor, Tensor]:
    """Append [2, tokens, 4] values to layer 1, keys being their negatives."""
    plan = cache.plan_append(slot, start, values.shape[1], 0)
    keys, values = cache.extend(1, plan, torch.cat((-values, values)).transpose(0, 1))
    return keys[0], values[0]


def scattered_cache() -> SoleCache:
    cache = new_cache()
    for slot in range(10, 16):
        cache.open(slot, 1)
    for slot in (10, 12, 14):
        cache.free(slot)
    return cache


@pytest.mark.parametrize("make", [new_cache, scattered_cache])
def test_reads_return_what_was_stored_across_a_rollback(make: Callable[[], SoleCache]) -> None:
    cache = make()
    cache.open(0, 12)
    first, second = torch.randn(2, 9, 4), torch.randn(2, 5, 4)
    store(cache, 0, 0, first)
    keys, values = store(cache, 0, 6, second)  # drops three
    expected = torch.cat((first[:, :6], second), dim=1)
    assert torch.equal(values, expected)
    assert torch.equal(keys, -expected)
    assert cache.length(0) == 11
    assert torch.equal(cache.snapshot(0)[1, 1], expected)


def test_neighbouring_pages_are_read_without_a_copy() -> None:
    cache = new_cache()
    cache.open(0, 12)
    keys, values = store(cache, 0, 0, torch.randn(2, 9, 4))
    again, _ = store(cache, 0, 9, torch.ones(2, 1, 4))
    assert keys.untyped_storage().data_ptr() == again.untyped_storage().data_ptr()
    assert keys.data_ptr() == again.data_ptr()
    assert values.shape == (2, 9, 4)


def test_sequences_do_not_disturb_each_other() -> None:
    cache = new_cache()
    kept = torch.randn(2, 7, 4)
    for slot in (0, 1):
        cache.open(slot, 8)
    store(cache, 0, 0, kept)
    store(cache, 1, 0, torch.randn(2, 8, 4))
    assert torch.equal(cache.snapshot(0)[1, 1], kept)


def test_a_full_cache_rejects_and_keeps_its_pages() -> None:
    cache = new_cache()
    cache.open(0, 13)
    with pytest.raises(CacheFull, match="3 cache pages are needed, 2 are free"):
        cache.open(1, 9)
    cache.open(1, 8)  # the 2 pages
    cache.free(0)
    cache.free(1)
    cache.open(2, 24)  # all 6 pages


def test_opening_a_slot_twice_is_rejected() -> None:
    cache = new_cache()
    cache.open(0, 1)
    with pytest.raises(ValueError, match="slot 0 is open already"):
        cache.open(0, 1)


@pytest.mark.parametrize("length", [-1, 4])
def test_truncation_only_shortens(length: int) -> None:
    cache = new_cache()
    cache.open(0, 8)
    store(cache, 0, 0, torch.randn(2, 3, 4))
    with pytest.raises(ValueError, match=f"slot 0 holds 3 tokens, not {length}"):
        cache.truncate(0, length)
    cache.truncate(0, 2)
    assert cache.length(0) == 2


def test_cache_memory_counts_keys_and_values_of_every_token() -> None:
    assert cache_bytes(2 * 30 * 3 * 64, 100, torch.float16) == 2 * 30 * 3 * 64 * 100 * 2
