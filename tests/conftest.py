"""Settings of all tests."""

import hypothesis
import pytest
import torch

hypothesis.settings.register_profile("busy", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("busy")


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Several test processes share two cores: more threads would only wait for one another."""
    torch.set_num_threads(1)
