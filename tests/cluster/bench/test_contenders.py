"""Names of contenders say which engine runs, and how."""

import pytest

from cluster.bench.contenders import Contender, EngineKind, parse_contenders
from parallel.decoding.types import DecodeMode
from runtime.errors import ConfigError


def test_every_form_of_a_name_is_understood() -> None:
    names = (
        *("autoregressive", "pearl", "auto:lookup:ngram+recycle"),
        *("llama.cpp", "llama.cpp:lookup=2", "transformers:lookup"),
    )
    assert parse_contenders(names) == (
        Contender(name=names[0], kind=EngineKind.PACELINE, mode=DecodeMode.AUTOREGRESSIVE),
        Contender(name=names[1], kind=EngineKind.PACELINE, mode=DecodeMode.PEARL),
        Contender(
            name=names[2],
            kind=EngineKind.PACELINE,
            mode=DecodeMode.AUTO,
            drafter="lookup:ngram+recycle",
        ),
        Contender(name=names[3], kind=EngineKind.LLAMA_CPP),
        Contender(name=names[4], kind=EngineKind.LLAMA_CPP, num_lookup=2),
        Contender(name=names[5], kind=EngineKind.TRANSFORMERS, num_lookup=10),
    )


@pytest.mark.parametrize(
    "name",
    [
        *("llama", "llama.cpp:2", "llama.cpp:lookup=0", "llama.cpp:lookup=", "transformers:ngram"),
        *("pearl:", "fast", "", "autoregressive:lookup"),
    ],
)
def test_other_names_are_refused_with_the_value(name: str) -> None:
    with pytest.raises(ConfigError, match=f"`contenders` has '{name}'"):
        parse_contenders(("auto", name))


def test_a_comparison_names_each_contender_once_and_has_one_of_ours() -> None:
    with pytest.raises(ConfigError, match="names pearl twice"):
        parse_contenders(("pearl", "auto", "pearl"))
    with pytest.raises(ConfigError, match="no mode of Paceline"):
        parse_contenders(("llama.cpp", "transformers"))
