"""Expects a configuration error, whatever it puts into backticks."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from runtime.errors import ConfigError


@contextmanager
def rejected(message: str) -> Iterator[None]:
    """Expect a ConfigError that matches a pattern; the backticks around keys are left out."""
    with pytest.raises(ConfigError) as found:
        yield
    text = str(found.value).replace("`", "")
    assert re.search(message, text), text
