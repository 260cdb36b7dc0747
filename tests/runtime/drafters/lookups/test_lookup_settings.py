"""Look-up sources are named by text, and the text is made of them again."""

import pickle
from pathlib import Path

import pytest

from parallel.drafting.retrieval import build_store
from runtime.drafters.lookups.lookup_settings import (
    LOOKUP_SOURCES,
    LookupSettings,
    is_lookup_source,
)
from runtime.drafters.lookups.retrieval_files import save_store
from runtime.errors import ConfigError


def test_settings_are_read_as_they_are_written() -> None:
    assert LookupSettings.parse("") == LookupSettings()
    for text in ("ngram", "recycle", "ngram+recycle", "ngram+store=/a/b", "store=x"):
        assert str(LookupSettings.parse(text)) == text
    for text in ("bigram", "store", "ngram=4", "ngram++recycle"):
        with pytest.raises(ConfigError, match="is not known: write lookup:"):
            LookupSettings.parse(text)


def test_a_source_that_is_named_twice_is_opened_once() -> None:
    assert str(LookupSettings.parse("store=a+ngram+store=b")) == "store=b+ngram"


def test_every_source_of_the_room_is_found_and_travels() -> None:
    assert {"ngram", "recycle", "store"} <= LOOKUP_SOURCES.keys()
    for kind in LOOKUP_SOURCES.values():
        source = kind("x" if kind.value_name else "")
        assert is_lookup_source(str(source))
        assert pickle.loads(pickle.dumps(source)) == source


def test_a_store_is_checked_and_named_by_its_absolute_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_store(tmp_path / "store", build_store([[1, 2]], 0), vocabulary="v", num_texts=1)
    monkeypatch.chdir(tmp_path)
    settings = LookupSettings.parse("ngram+store=store")
    assert str(settings.checked("v")) == f"ngram+store={tmp_path}/store"
    with pytest.raises(ConfigError, match="another vocabulary"):
        settings.checked("w")
