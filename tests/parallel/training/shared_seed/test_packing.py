"""Entries packed in columns: back to the same, and what does not fit is rejected."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parallel.training.shared_seed.packing import EntryGroup, pack, unpack
from parallel.training.shared_seed.step import Entry

ENTRIES = st.lists(
    st.tuples(
        st.integers(0, 5), st.integers(0, 65535), st.binary(min_size=1, max_size=4)
    ).map(lambda parts: Entry(*parts)),
    unique_by=lambda entry: (entry.round, entry.machine),
)  # fmt: skip


@given(ENTRIES)
def test_entries_go_there_and_back(entries: list[Entry]) -> None:
    assert list(unpack(pack(entries))) == sorted(entries)


def test_a_scalar_of_many_machines_takes_two_bytes() -> None:
    entries = [Entry(7, machine, b"\x55") for machine in range(256)]
    (group,) = pack(entries)
    assert len(group.gaps) + len(group.codes) == 512
    (group,) = pack([Entry(7, m, b"\x55" * 8) for m in range(0, 640, 10)])
    assert len(group.gaps) + len(group.codes) == 64 + 512


@pytest.mark.parametrize(
    ("group", "error"),
    [
        (EntryGroup(3, 2, b"\x01\x01", b"abc"), "3 scalars of 2 machines with 2 each"),
        (EntryGroup(3, 0, b"\x01", b""), "1 machines with 0 each"),
        (EntryGroup(-1, 1, b"\x01", b"a"), "round -1"),
        (EntryGroup(3, 1, b"\x01\x00", b"ab"), "twice"),
        (EntryGroup(3, 1, b"\x81", b""), "truncated"),
        (EntryGroup(3, 1, b"\xff\xff\x7f", b"a"), "at most 65536"),
    ],
)
def test_what_does_not_fit_is_rejected(group: EntryGroup, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        unpack([group])
