"""Philox4x32-10 against plain integers."""

import torch

from parallel.training.shared_seed.philox import philox


def reference(counter: tuple[int, int, int, int], key: int) -> list[int]:
    """Return the ten rounds as the paper writes them, in Python's integers."""
    c0, c1, c2, c3 = counter
    k0, k1 = key % 2**32, key >> 32
    for _ in range(10):
        first, second = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (
            (second >> 32) ^ c1 ^ k0,
            second % 2**32,
            (first >> 32) ^ c3 ^ k1,
            first % 2**32,
        )
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return [c0, c1, c2, c3]


def test_words_are_those_of_the_paper() -> None:
    # The two known answers that the authors publish for zeros and for ones.
    zero, ones = torch.zeros(1, dtype=torch.int64), torch.full((1,), 2**32 - 1)
    assert philox((zero, zero, zero, zero), 0).tolist() == [
        [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    ]
    assert philox((ones, ones, ones, ones), 2**64 - 1).tolist() == [
        [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]
    ]


def test_counters_broadcast_and_each_has_its_own_words() -> None:
    rows, columns = torch.tensor([[0], [2**32 - 1]]), torch.tensor([[1, 2, 77]])
    zero = torch.zeros((), dtype=torch.int64)
    key = 0x0123456789ABCDEF
    found = philox((rows, columns, zero, zero + 5), key)
    assert found.shape == (2, 3, 4)
    for i, row in enumerate(rows.flatten().tolist()):
        for j, column in enumerate(columns.flatten().tolist()):
            assert found[i, j].tolist() == reference((row, column, 0, 5), key)
