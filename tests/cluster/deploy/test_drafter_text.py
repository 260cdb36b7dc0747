"""The name of a drafter determines what drafts and where, or is rejected with what to write."""

import pytest

from cluster.deploy.drafter_text import (
    AutoDrafterText,
    DrafterText,
    InlineDrafterText,
    LookupDrafterText,
    ModelDrafterText,
    NgramDrafterText,
    parse_drafter,
)
from runtime.drafters.lookups.lookup_settings import LookupSettings
from runtime.errors import ConfigError

BOTH = LookupSettings.parse("ngram+recycle")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("auto", AutoDrafterText()),
        ("ngram", NgramDrafterText()),
        ("lookup", LookupDrafterText(BOTH)),
        ("lookup:ngram+store=a/b", LookupDrafterText(LookupSettings.parse("ngram+store=a/b"))),
        ("org/model", ModelDrafterText(model="org/model")),
        ("model+ngram+recycle", ModelDrafterText(model="model", lookups=BOTH)),
        ("a+b+ngram", ModelDrafterText(model="a+b", lookups=LookupSettings.parse("ngram"))),
        ("model+store=", ModelDrafterText(model="model+store=")),
        (
            "target:layers=0-3,28+ngram",
            ModelDrafterText(
                model="target:layers=0-3,28",
                target_layers="0-3,28",
                lookups=LookupSettings.parse("ngram"),
            ),
        ),
        ("inline:model", InlineDrafterText(ModelDrafterText(model="model"))),
        ("beside:model", InlineDrafterText(ModelDrafterText(model="model"), has_thread=True)),
        (
            "inline:model+ngram+recycle",
            InlineDrafterText(ModelDrafterText(model="model", lookups=BOTH)),
        ),
    ],
)
def test_a_name_is_one_of_the_cases(name: str, text: DrafterText) -> None:
    assert parse_drafter(name) == text


@pytest.mark.parametrize(
    "name",
    [
        "inline:ngram",
        "inline:lookup",
        "ngram+recycle",
        "inline:lookup:ngram",
        "beside:auto",
        "auto+ngram",
    ],
)
def test_only_a_model_is_inline_or_has_look_ups(name: str) -> None:
    with pytest.raises(ConfigError, match=r"^`drafter` is .*: only a model can be inline"):
        parse_drafter(name)


@pytest.mark.parametrize("name", ["target:", "target:layers", "target:layers=", "target:0-3"])
def test_layers_of_the_target_are_named_in_one_way(name: str) -> None:
    with pytest.raises(ConfigError, match="write target:layers=0-3,28-29"):
        parse_drafter(name)


def test_a_look_up_source_that_is_not_known_is_rejected() -> None:
    with pytest.raises(ConfigError, match="look-up source 'bigram' is not known"):
        parse_drafter("lookup:ngram+bigram")
