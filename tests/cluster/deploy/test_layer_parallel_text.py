"""How many layers of a drafter run at once is off, a number or measured, from some layer on."""

import pytest

from cluster.deploy.layer_parallel_text import parse_layer_parallel
from runtime.errors import ConfigError
from runtime.hosts.rank_settings import LayerParallel


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("off", None),
        ("auto", LayerParallel(width=None)),
        ("4", LayerParallel(width=4)),
        ("4@6", LayerParallel(width=4, first_layer=6)),
        ("auto@6", LayerParallel(width=None, first_layer=6)),
    ],
)
def test_a_width_and_a_first_layer_are_read(text: str, parsed: LayerParallel | None) -> None:
    assert parse_layer_parallel(text) == parsed


@pytest.mark.parametrize("text", ["", "0", "-1", "on", "4@", "4@x", "off@2", "1.5"])
def test_other_texts_are_rejected(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^`layer_parallel` is .*: write off, auto or a number"):
        parse_layer_parallel(text)
