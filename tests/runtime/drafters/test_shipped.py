"""The drafters that come with the package are found by their target."""

from pathlib import Path

from runtime.drafters.shipped import shipped_drafter
from tests.support.models import smollm2_directory
from tests.support.tiny_checkpoint import save_tiny_checkpoint


def test_a_target_without_a_shipped_drafter_has_none(tmp_path: Path) -> None:
    assert shipped_drafter(save_tiny_checkpoint(tmp_path / "tiny")) is None


def test_smollm2_has_its_drafter() -> None:
    found = shipped_drafter(smollm2_directory())
    assert found is not None
    assert found.name == "smollm2-135m"
