"""The command line under a locale that is not UTF-8, in a real process."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CODE = (
    "import sys; from cluster.cli.utf8 import restart_in_utf8; restart_in_utf8(); "
    r"import psutil; print(sys.argv[1:] == ['h\u00e9'], psutil.Process().cmdline()[-1], '\u4e2d')"
)


def run(**environ: str) -> str:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    finished = subprocess.run(
        [sys.executable, "-c", CODE, "h\u00e9".encode()],
        env=kept | {"PYTHONPATH": str(ROOT)} | environ,
        capture_output=True,
        timeout=120,
        check=True,
    )
    return finished.stdout.decode()


def test_arguments_are_utf8_under_an_ascii_locale_and_output_is_escaped() -> None:
    """psutil's is the command line that Ray reads."""
    ascii_locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    assert run(**ascii_locale) == "True h\\xe9 \\u4e2d\n"


def test_the_encoding_that_a_user_sets_for_output_stays() -> None:
    environ = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "utf-8"}
    assert run(**environ) == "True h\u00e9 \u4e2d\n"


def test_a_utf8_locale_needs_no_second_start() -> None:
    assert run(LC_ALL="C.UTF-8") == "True h\u00e9 \u4e2d\n"
