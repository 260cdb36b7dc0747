"""Settings of all tests."""

import os
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
import torch
from xdist.scheduler import LoadScopeScheduling

from tests.support.process_state import NUM_THREADS, own_process_state, ray_is_running

_INTEGRATION = "tests/integration/"
_SERVED = ("tests/integration/serving/", "tests/integration/examples/")
"""Where tests start servers and programs, with a Ray of their own."""

hypothesis.settings.register_profile("busy", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("busy")
torch.set_num_threads(NUM_THREADS)
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when a kernel is defined


@pytest.fixture(autouse=True)
def own_process(request: pytest.FixtureRequest) -> Iterator[None]:
    """Undo what a test changes in its process; fail one that leaves a Ray behind."""
    had_ray = ray_is_running()
    with own_process_state():
        yield
    if not request.node.nodeid.startswith(_INTEGRATION):
        assert had_ray or not ray_is_running(), "the test leaves a Ray that runs in this process"


class RayInOneProcess(LoadScopeScheduling):  # type: ignore[misc]  # untyped
    """Gives whole files to processes, and all files that share a Ray to the same one.

    One process starts with all tests that share a Ray, the other one with those that need none.
    Tests of servers, which start a Ray of their own, come last: both processes share their files.
    """

    def _split_scope(self, nodeid: str) -> str:
        return _INTEGRATION if _turn(nodeid) == 0 else nodeid.partition("::")[0]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> RayInOneProcess:
    """Return how tests are shared out among processes."""
    config.option.loadscopereorder = False
    return RayInOneProcess(config, log)


@pytest.hookimpl(trylast=True)  # after they have been shuffled
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the tests that share a Ray: they take longest."""
    items.sort(key=lambda item: _turn(item.nodeid))


def _turn(nodeid: str) -> int:
    """Return when a test's turn comes: 0 with a shared Ray, 1 without any, 2 with its own."""
    if nodeid.startswith(_SERVED):
        return 2
    return 0 if nodeid.startswith(_INTEGRATION) else 1
