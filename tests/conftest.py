"""Settings of all tests."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Several test processes share two cores: more threads would only wait for one another."""
    torch.set_num_threads(1)
