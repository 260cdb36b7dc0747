"""The options of gRPC channels and servers, against the installed library."""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
ROOMS = ("actors", "cluster", "parallel", "runtime")
NAME = re.compile(rb'"(grpc\.[a-z0-9_.]*[a-z0-9])"')


def names_in(*rooms: str) -> dict[bytes, str]:
    """Return every option's name with a file that sets it."""
    files = (file for room in rooms for file in sorted((ROOT / room).rglob("*.py")))
    return {
        name: str(file.relative_to(ROOT))
        for file in files
        for name in NAME.findall(file.read_bytes())
    }


@pytest.fixture(scope="module")
def library() -> bytes:
    found = find_spec("grpc._cython.cygrpc")
    assert found is not None
    return Path(str(found.origin)).read_bytes()


def test_every_option_of_grpc_is_known_to_the_installed_library(library: bytes) -> None:
    used = names_in(*ROOMS)
    assert len(used) > 10
    unknown = {name: file for name, file in used.items() if name + b"\0" not in library}
    assert not unknown


def test_a_misspelt_option_would_be_found(library: bytes) -> None:
    assert b"grpc.http2." + b"min_recv_ping_interval_without_data_ms" not in library
