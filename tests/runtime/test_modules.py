"""Modules of a room are found by listing it."""

from runtime.drafters import lookups
from runtime.modules import modules_of


def test_the_modules_with_a_suffix_are_imported_in_alphabetical_order() -> None:
    names = [module.__name__.rpartition(".")[2] for module in modules_of(lookups, suffix="_lookup")]
    assert names == ["ngram_lookup", "recycle_lookup", "store_lookup"]


def test_all_modules_of_a_room_are_found_without_a_suffix() -> None:
    assert lookups.__name__ + ".lookup_source" in {m.__name__ for m in modules_of(lookups)}
