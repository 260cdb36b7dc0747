"""What may be used is the machine's or the container's, whichever is less."""

from pathlib import Path

import psutil
import pytest

from runtime.errors import ConfigError
from runtime.rank.memory_check import available_bytes, check_fits

GIB = 1024**3


def lay(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_without_a_container_it_is_what_the_machine_has(tmp_path: Path) -> None:
    assert 0 < available_bytes(tmp_path) <= psutil.virtual_memory().total


def test_an_unlimited_container_changes_nothing(tmp_path: Path) -> None:
    lay(tmp_path, {"memory.max": "max\n", "memory.current": "500\n"})
    assert available_bytes(tmp_path) > 500


def test_a_container_leaves_its_limit_less_what_it_holds(tmp_path: Path) -> None:
    lay(tmp_path, {"memory.max": "1000\n", "memory.current": "700\n"})
    assert available_bytes(tmp_path) == 300


def test_files_read_lately_do_not_count_as_held(tmp_path: Path) -> None:
    stat = "anon 300\ninactive_file 250\nactive_file 5\n"
    lay(tmp_path, {"memory.max": "1000", "memory.current": "700", "memory.stat": stat})
    assert available_bytes(tmp_path) == 550


def test_an_overdrawn_container_has_nothing_left(tmp_path: Path) -> None:
    lay(tmp_path, {"memory.max": "1000", "memory.current": "1200"})
    assert available_bytes(tmp_path) == 0


def test_containers_of_the_first_version_are_read_too(tmp_path: Path) -> None:
    files = {
        "memory/memory.limit_in_bytes": "1000",
        "memory/memory.usage_in_bytes": "900",
        "memory/memory.stat": "inactive_file 1\ntotal_inactive_file 50\n",
    }
    assert available_bytes(lay(tmp_path, files)) == 150


def test_what_fits_is_let_through() -> None:
    check_fits(2 * GIB, GIB, 4 * GIB, cache_tokens=10)


def test_what_does_not_fit_is_rejected_with_its_figures() -> None:
    with pytest.raises(ConfigError) as refusal:
        check_fits(2 * GIB, 3 * GIB, 4 * GIB, cache_tokens=1234)
    text = str(refusal.value)
    for part in ("2.0 GiB", "1234 tokens 3.0 GiB", "4.0 GiB are available", "`cache_tokens`"):
        assert part in text
