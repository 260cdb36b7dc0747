"""`place` is read key by key, and what cannot be read is named."""

import pytest

from cluster.placement.place_options import PlaceOptions
from runtime.errors import ConfigError


def test_every_key_is_read() -> None:
    text = "target=spread,nodes=2,drafter=far,cpus=0.5,domain=rack,interface=eth0,port=7000"
    options = PlaceOptions.parse(text + ", timeout=3, wait=0")
    assert options == PlaceOptions(
        target="spread",
        nodes=2,
        drafter="far",
        cpus=0.5,
        domain="rack",
        interface="eth0",
        port=7000,
        timeout_s=3.0,
        wait_s=0.0,
    )
    assert PlaceOptions.parse(None) == PlaceOptions.parse("") == PlaceOptions()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("target=near", "`place` target is 'near': choose one of auto, pack, spread"),
        ("drafter=here", "choose one of auto, near, far"),
        ("cpus=0", "write a number from 0.01 on"),
        ("cpus=nan", "`place` cpus is 'nan'"),
        ("wait=-1", "`place` wait is '-1'"),
        ("port=70000", "it must be 0 to 65535"),
        ("nodes=0", "`place` nodes is '0': write a number from 1 on"),
        ("nodes=1.5", "`place` nodes is '1.5': write a whole number"),
        ("domain=", "`place` domain= cannot be read"),
        ("node=1", "`place` node=1 cannot be read: write target, nodes, drafter"),
    ],
)
def test_a_bad_place_is_rejected(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        PlaceOptions.parse(text)
