"""However a command ends: the exit code is as documented, one message, no traceback."""

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
import typer
from ray.exceptions import RaySystemError

from cluster.cli.command_endings import DEBUG, run_to_end
from cluster.cli.main import app
from runtime.errors import ConfigError, InvalidValue, PeerLost

ROOT = Path(__file__).resolve().parents[2]


def raised(number: int, name: str | None = None) -> OSError:
    """Return an error of the system."""
    return OSError(number, os.strerror(number), name)


def ended(error: BaseException, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Return the exit code and the message of a command that raises an error."""

    def command() -> None:
        raise error

    code = run_to_end(command)
    output = capsys.readouterr()
    assert output.out == ""
    assert "Traceback" not in output.err
    assert output.err.count("\n") == 1
    return code, output.err


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ConfigError("--tp is 0: at least 1 is needed"), 2, "error: --tp is 0: at least 1"),
        (InvalidValue("n is -1"), 2, "error: n is -1"),
        (PeerLost("rank 1 died"), 1, "error: rank 1 died"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (typer.Abort(), 130, "interrupted"),
        (MemoryError(), 1, "error: out of memory .*: free some memory"),
        (raised(errno.ENOSPC, "/data/state"), 1, "/data/state: No space left on device; free some"),
        (raised(errno.EMFILE), 1, "Too many open files; raise the limit"),
        (raised(errno.EACCES, "x"), 1, "x: Permission denied; check the permissions"),
        (raised(errno.EISDIR, "x"), 1, "x: Is a directory"),
        (raised(errno.ENAMETOOLONG, "x"), 1, "x: File name too long; choose a shorter name"),
        (raised(errno.EPIPE), 1, "Broken pipe"),  # not of our output, which can be written
        (grpc.RpcError("the channel is closed"), 1, "error: grpc failed: RpcError: the channel"),
        (RaySystemError("the raylet died"), 1, "error: ray failed: .*the raylet died"),
        (RecursionError("too deep"), 1, "unexpected RecursionError: too deep: this is a fault"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), 1, "unexpected UnicodeDecodeError"),
        (KeyError("a\nb"), 1, r"unexpected KeyError: 'a\\nb': this is a fault of Paceline"),
        (Exception("x" * 5000), 1, "unexpected Exception: x{300}"),
        (Exception("half \ud800"), 1, r"unexpected Exception: half .ud800"),
    ],
)
def test_an_error_is_one_line_and_its_exit_code(
    error: BaseException,
    code: int,
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    found, printed = ended(error, capsys)
    assert found == code
    assert re.search(message, printed), printed


def test_an_exit_code_passes_and_success_is_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_to_end(lambda: None) == 0
    assert run_to_end(lambda: 3) == 3
    assert run_to_end(lambda: sys.exit(143)) == 143
    assert run_to_end(lambda: sys.exit()) == 0
    assert capsys.readouterr().err == ""


def test_a_faults_traceback_is_in_the_file_that_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    _, printed = ended(KeyError("gone"), capsys)
    (file,) = tmp_path.iterdir()
    assert str(file) in printed
    assert "KeyError: 'gone'" in file.read_text()
    assert "Traceback" in file.read_text()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    assert f"set {DEBUG}=1" in ended(KeyError("gone"), capsys)[1]


def test_the_traceback_is_shown_where_that_is_asked_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DEBUG, "1")

    def command() -> None:
        raise ConfigError("bad")

    assert run_to_end(command) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("Traceback")
    assert printed.endswith("error: bad\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nope"], "error: No such command 'nope'"),
        (["generate", "--nope"], "error: No such option: --nope"),
        (["generate", "--threads", "2"], ".*: --threads; give it as --set models.threads=VALUE"),
        (["admin", "status", "--retry-tokens", "2"], "error: No such option: --retry-tokens"),
        (["generate", "--tp", "x"], "error: --tp is 'x' .*: it must be an integer"),
        (["client"], "error: Missing argument"),
        (["generate", "--max-tokens"], "error: Option '--max-tokens' requires an argument"),
        (["admin", "drafters", "-1"], "error: .*-1"),
    ],
)
def test_a_command_line_that_cannot_be_read_is_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_to_end(lambda: app(arguments, standalone_mode=False)) == 2
    printed = capsys.readouterr().err
    assert re.match(message, printed), printed
    assert printed.count("\n") == 1


def test_help_goes_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_to_end(lambda: app(["generate", "--help"], standalone_mode=False)) == 0
    output = capsys.readouterr()
    assert "--max-tokens" in output.out
    assert output.err == ""


_PROGRAM = """
import sys
from rich.console import Console
from cluster.cli.command_endings import run_to_end
def with_print():
    for number in range(10**6):
        print("na\\u00efve", number)
def with_rich():
    console = Console()
    for number in range(10**6):
        console.print("na\\u00efve", number)
def one_line():
    print("na\\u00efve \\U0001f600")
sys.exit(run_to_end(globals()[sys.argv[1]]))
"""


def start(name: str, *, redirect: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the program above in a shell and return its exit code and output."""
    line = f"{sys.executable} -c '{_PROGRAM}' {name} {redirect}; exit ${{PIPESTATUS[0]}}"
    return subprocess.run(
        ["bash", "-c", line],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=os.environ | variables,
        timeout=120,
    )


@pytest.mark.parametrize("name", ["with_print", "with_rich"])
@pytest.mark.parametrize("redirect", ["| head -n 1", "2>&1 | head -n 1"])
def test_a_reader_that_stops_reading_ends_the_command_quietly(name: str, redirect: str) -> None:
    done = start(name, redirect=redirect)
    assert (done.returncode, done.stdout, done.stderr) == (141, "naïve 0\n", "")


def test_a_full_disk_behind_standard_output_is_named() -> None:
    done = start("one_line", redirect="> /dev/full")
    assert done.returncode == 1
    assert re.fullmatch("error: .*No space left on device; free some space.*\n", done.stderr)


@pytest.mark.parametrize(
    "variables",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
)
def test_what_an_ascii_terminal_lacks_is_escaped(variables: dict[str, str]) -> None:
    done = start("one_line", **variables)
    assert (done.returncode, done.stdout) == (0, "na\\xefve \\U0001f600\n")
    assert done.stderr == ""


def test_a_closed_standard_output_is_no_error() -> None:
    assert start("one_line", redirect=">&-").returncode == 0
