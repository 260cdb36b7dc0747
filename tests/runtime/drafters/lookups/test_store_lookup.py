"""A store guesses what follows in its texts, until a part of its files is lost."""

import os
from pathlib import Path

import pytest

from parallel.drafting.ngram import NgramIndex
from parallel.drafting.retrieval import build_store
from runtime.drafters.lookups.retrieval_files import save_store
from runtime.drafters.lookups.store_lookup import StoreLookup
from runtime.errors import ConfigError
from tests.support.log_records import records_of


def test_a_store_guesses_until_its_files_are_cut(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = build_store([[4, 2, 3, 9]], 0)
    save_store(tmp_path / "store", store, vocabulary="v", num_texts=1)
    opened = StoreLookup(str(tmp_path / "store")).open()
    text = NgramIndex()
    text.append([8, 4, 2])
    source = opened.source(text)
    assert source is not None
    assert [guess.token for guess in source.guesses(source.root())] == [3]
    os.truncate(tmp_path / "store" / "order.npy", 0)
    for _ in range(2):
        assert opened.source(text) is None
    assert len(records_of(caplog, "paceline.drafter")) == 1


def test_a_store_that_this_node_lacks_is_rejected() -> None:
    with pytest.raises(ConfigError, match="has no store of texts /gone/store"):
        StoreLookup("/gone/store").open()
