"""Settings of all tests."""

from pathlib import Path

import hypothesis
import pytest
import torch

_INTEGRATION = Path(__file__).parent / "integration"

hypothesis.settings.register_profile("busy", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("busy")


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Several test processes share two cores: more threads would only wait for one another."""
    torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Group tests for `-n 2 --dist loadgroup`: all that start Ray, else by file.

    Two Rays at once take longer than one after the other, so one process runs all integration
    tests while the other begins with the rest.
    """
    for item in items:
        starts_ray = _INTEGRATION in item.path.parents
        item.add_marker(pytest.mark.xdist_group("ray" if starts_ray else str(item.path)))
