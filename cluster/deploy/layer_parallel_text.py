"""Reads how many of a drafter's layers run at once, as `layer_parallel` gives it."""

from runtime.errors import ConfigError
from runtime.hosts.rank_settings import LayerParallel

_OFF, _AUTO = "off", "auto"


def parse_layer_parallel(text: str) -> LayerParallel | None:
    """Return what `layer_parallel` asks for; None for off.

    Raises:
        ConfigError: it is none of off, auto, N, auto@K and N@K.
    """
    if text == _OFF:
        return None
    width, at, first = text.partition("@")
    known = width == _AUTO or (width.isdecimal() and int(width) >= 1)
    if not known or (at and not first.isdecimal()):
        raise ConfigError(
            f"`layer_parallel` is {text!r}: write off, auto or a number from 1 on, and @K after it "
            "to leave layers before K one after the other, as 4@6"
        )
    return LayerParallel(width=None if width == _AUTO else int(width), first_layer=int(first or 0))
