"""Every option of every verb that takes a path, with every kind of bad file.

All are rejected with exit code 2 and one line that names the option or the file, before Ray is
started, a server is called, or a weight is read. New verbs and options are enrolled by themselves;
one that needs a value that is not known here fails until it is given one.
"""

import os
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
import typer

from cluster.cli.command_endings import run_to_end
from cluster.cli.declaration import VerbDeclaration
from cluster.cli.generated import DECLARATIONS
from cluster.cli.main import app
from cluster.network import ray_session
from cluster.options.schema import REQUIRED, PathUse
from parallel.model.transformer import Decoder
from runtime.training.shared_seed.seed_log import SeedLog
from tests.support.shared_seed_runs import header
from tests.support.tiny_checkpoint import save_tiny_checkpoint

DEEP = "[" * 3000
LONG = "7" * 5000


class Started(BaseException):
    """Something was started that costs seconds, or reaches another process."""


@dataclass(frozen=True)
class Case:
    """A setting of a verb."""

    verb: tuple[str, ...]
    name: str
    """How an error names it: its option, its argument in capitals, or `--set KEY`."""
    field: str
    """The field's name."""
    kind: type
    """int, float, Path, or another."""
    is_required: bool
    use: PathUse | None = None
    """What is done with a path, where the verb declares it."""

    @property
    def is_output(self) -> bool:
        """Whether a path is written."""
        return self.use in (*OUTPUT_DIRECTORIES, PathUse.OUTPUT_FILE, PathUse.PICTURE)

    @property
    def is_directory(self) -> bool:
        """Whether a path is a directory."""
        return self.use in (*OUTPUT_DIRECTORIES, PathUse.INPUT_DIRECTORY)

    @property
    def before(self) -> list[str]:
        """What the command line has before its value."""
        if self.name.startswith("--set"):
            return ["--set"]
        return [self.name] if self.name.startswith("-") else []

    def written(self, value: str) -> str:
        """Return a value as the command line has it."""
        _, is_set, key = self.name.partition("--set ")
        return f"{key}={value}" if is_set else value


def leaves(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every verb with its command."""
    for name, inner in getattr(command, "commands", {}).items():
        yield from leaves(inner, (*path, name))
    if not hasattr(command, "commands"):
        yield path, command


def declared(verb: tuple[str, ...], declaration: VerbDeclaration[Any]) -> Iterator[Case]:
    """Yield the settings of a verb that is made from its declaration."""
    names = declaration.names
    for key, setting in declaration.settings.items():
        is_argument = key in declaration.arguments
        yield Case(
            verb,
            names.get(key, f"--set {key}"),
            key.split(".", 1)[-1],
            setting.kind,
            setting.default is REQUIRED or is_argument,
            setting.path_use,
        )
    if declaration.has_more_settings:
        yield Case(verb, "--config", "config", Path, is_required=False)


COMMAND = typer.main.get_command(app)
VERBS = dict(leaves(COMMAND))
SETTINGS = {verb: list(declared(verb, DECLARATIONS[" ".join(verb)])) for verb in VERBS}
CASES = [case for cases in SETTINGS.values() for case in cases if case.kind is Path]
USEFUL = {
    *((verb, "target") for verb in VERBS),
    *((verb, "prompt") for verb in VERBS if verb != ("client",)),
    (("bench", "layer-parallel"), "drafter"),
    (("bench", "guesses"), "drafter"),
    (("train", "verify"), "base"),
    (("bench", "engines"), "gguf"),
    (("bench", "engines"), "llama_python"),
    (("draft", "train"), "head_vocab"),
}
"""Options that a verb needs although they are not required."""
OUTPUT_DIRECTORIES = (PathUse.OUTPUT_DIRECTORY, PathUse.NEW_DIRECTORY)


def case_id(case: Case) -> str:
    """Return a test's name."""
    return "-".join((*case.verb, case.field))


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Values that nothing is wrong with, by the name of the parameter."""
    root = tmp_path_factory.mktemp("good")
    checkpoint = save_tiny_checkpoint(root / "model")
    template = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
    (checkpoint / "chat_template.jinja").write_text(template)
    prompts = root / "prompts.jsonl"
    prompts.write_text('{"prompt": "w1 w2", "completion": "w3"}\n')
    directory = root / "directory"
    directory.mkdir()
    (directory / "adapter_model.safetensors").touch()
    gguf = root / "model.gguf"
    gguf.write_bytes(b"GGUF")
    log = root / "seeds.log"
    SeedLog.create(log, header()).close()
    config = root / "job.toml"
    config.write_text(
        f'model = "{checkpoint}"\nout = "{root}/job"\n[data]\ntrain = "{prompts}"\n'
        f'[lora]\ntargets = ["q_proj"]\n'
    )
    return {
        "target": str(checkpoint),
        "model": str(checkpoint),
        "base": str(checkpoint),
        "prompts": str(prompts),
        "texts": str(prompts),
        "gguf": str(gguf),
        "llama_python": sys.executable,
        "data": str(prompts),
        "files": str(prompts),
        "config": str(config),
        "file": str(config),
        "log": str(log),
        "directory": str(directory),
        "adapter": str(directory),
        "traffic": str(directory),
        "out": str(root / "new"),
        "server": "127.0.0.1:1",
        "prompt": "w1 w2",
        "drafters": "lookup",
        "head_vocab": "50",
        "drafter": "target:layers=0-1",
        "name": "chat",
        "num_drafters": "1",
        "verb": "generate",
        "address": "http://127.0.0.1:1",
    }


@pytest.fixture(autouse=True)
def spied(monkeypatch: pytest.MonkeyPatch) -> None:
    """Raise where a test would start Ray, open a connection or read weights."""

    def started(*_: object, **__: object) -> Any:
        raise Started

    monkeypatch.setattr(ray, "init", started)
    monkeypatch.setattr(ray_session.RaySession, "__enter__", started)
    monkeypatch.setattr(torch.nn.Module, "__init__", started)
    monkeypatch.setattr(Decoder, "__init__", started)
    monkeypatch.setattr("grpc.insecure_channel", started)
    monkeypatch.setattr("grpc.secure_channel", started)
    monkeypatch.setattr("grpc.aio.insecure_channel", started)
    monkeypatch.setattr("urllib.request.urlopen", started)


def command_line(case: Case, value: str, good: dict[str, str]) -> list[str]:
    """Return a command line whose only fault is the value."""
    arguments = list(case.verb)
    for one in SETTINGS[case.verb]:
        is_it = one == case
        if not is_it and not one.is_required and (case.verb, one.field) not in USEFUL:
            continue
        assert is_it or one.field in good, f"enrol a value for {one.field} of {case.verb}"
        if one.field == "prompt" and case.field == "prompts":
            continue  # one or the other
        given = value if is_it else good[one.field]
        arguments += [*one.before, one.written(given)]
    return arguments


def rejected(case: Case, path: Path, good: dict[str, str], capsys: Any) -> None:
    """Run a command line and check that it is rejected as it should be."""
    arguments = command_line(case, str(path), good)
    code = run_to_end(lambda: COMMAND(arguments, standalone_mode=False))
    printed = capsys.readouterr().err.strip()
    last = printed.splitlines()[-1] if printed else ""
    assert code == 2, f"{code}: {printed} {arguments}"
    assert "Traceback" not in printed
    assert last.startswith("error: "), printed
    assert case.name in last or Path(path).name in last, printed


def missing(path: Path) -> None:
    """Leave nothing there."""
    assert not os.path.lexists(path)


def directory(path: Path) -> None:
    """Make a directory."""
    path.mkdir()


def file(path: Path) -> None:
    """Make a file."""
    path.write_text("{}")


def broken_link(path: Path) -> None:
    """Make a link to nothing."""
    path.symlink_to("gone")


def circle(path: Path) -> None:
    """Make a link to itself."""
    path.symlink_to(path)


def unreadable(path: Path) -> None:
    """Make a link to a regular file that not even root can read."""
    path.symlink_to("/proc/self/mem")


def bound_socket(path: Path) -> None:
    """Make a socket."""
    with socket.socket(socket.AF_UNIX) as bound:
        os.chdir(path.parent)  # its path has a limit of its own
        bound.bind(path.name)


def huge(path: Path) -> None:
    """Make a file of a terabyte without a byte on the disk."""
    with path.open("wb") as opened:
        opened.truncate(1 << 40)


def content(data: bytes | str) -> Callable[[Path], Any]:
    """Return what makes a file of this content."""
    return lambda path: path.write_bytes(data if isinstance(data, bytes) else data.encode())


UNOPENABLE: dict[str, Callable[[Path], Any]] = {
    "missing": missing,
    "a directory": directory,
    "a named pipe": os.mkfifo,
    "a socket": bound_socket,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a broken link": broken_link,
    "a circle of links": circle,
    "unreadable": unreadable,
}
CONTENTS = {
    "empty": content(""),
    "garbage": content(bytes(range(256))),
    "UTF-16": content('{"prompt": "w1"}'.encode("utf-16")),
    "not UTF-8": content(b'{"prompt": "na\xefve"}\n'),
    "deep": content(f'{{"prompt": {DEEP}'),
    "deep TOML": content(f"a = {DEEP}"),
    "a long number": content(f'{{"prompt": "w1", "n": {LONG}}}\n'),
    "a long TOML number": content(f"a = {LONG}"),
    "cut short": content('{"prompt": "w1'),
    "huge": huge,
}
NO_TEXTS = ("empty", "garbage", "UTF-16", "not UTF-8", "huge")
"""Kinds of content that are not even text."""
INPUTS = [case for case in CASES if not case.is_output]
FILES = [case for case in INPUTS if not case.is_directory]
DIRECTORIES = [case for case in INPUTS if case.is_directory]
OUTPUTS = [case for case in CASES if case.is_output]


@pytest.mark.parametrize("case", FILES, ids=case_id)
def test_a_file_that_cannot_be_opened_is_rejected(
    case: Case, good: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for kind, make in UNOPENABLE.items():
        path = tmp_path / f"{kind.replace(' ', '-')}.x"
        make(path)
        rejected(case, path, good, capsys)


@pytest.mark.parametrize("case", FILES, ids=case_id)
def test_a_file_that_cannot_be_understood_is_rejected(
    case: Case, good: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for kind, make in CONTENTS.items():
        if kind == "empty" and case.name == "--config":
            continue  # a configuration of defaults
        if case.field == "grammar" and kind not in NO_TEXTS:
            continue  # the engine compiles it, and tells what is wrong (tests/runtime/constraints)
        path = tmp_path / f"{kind.replace(' ', '-')}.jsonl"
        make(path)
        rejected(case, path, good, capsys)


@pytest.mark.parametrize("case", DIRECTORIES, ids=case_id)
def test_a_directory_that_cannot_be_read_is_rejected(
    case: Case, good: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for kind, make in (UNOPENABLE | {"a file": file}).items():
        path = tmp_path / f"{kind.replace(' ', '-')}.x"
        make(path)
        if kind != "a directory" or case.field not in ("working_dir", "traffic"):
            rejected(case, path, good, capsys)


@pytest.mark.parametrize("case", OUTPUTS, ids=case_id)
def test_a_place_that_cannot_be_written_is_rejected_before_the_work(
    case: Case, good: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = tmp_path / "file"
    made.write_text("mine")
    paths = [made / "below.png", Path("/proc/new.png"), tmp_path / ("n" * 300 + ".png")]
    if case.is_directory:
        paths.append(made)
    else:
        pipe = tmp_path / "pipe.png"
        os.mkfifo(pipe)
        taken = tmp_path / "taken.png"
        taken.mkdir()
        paths += [pipe, taken, tmp_path / "none" / "below.png"]
    for path in paths:
        rejected(case, path, good, capsys)
    assert made.read_text() == "mine"
    assert not (tmp_path / "none").exists()


def test_every_verb_is_enrolled_and_takes_good_files(
    good: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(CASES) > 60
    for case in INPUTS:
        if case.field != "prompts":
            continue
        marked = tmp_path / "marked.jsonl"
        marked.write_bytes(b"\xef\xbb\xbf" + Path(good["prompts"]).read_bytes())
        for path in (good["prompts"], marked):
            arguments = command_line(case, str(path), good | {"out": str(tmp_path / "new")})
            with pytest.raises(Started):
                COMMAND(arguments, standalone_mode=False)
            shutil.rmtree(tmp_path / "new.work", ignore_errors=True)
    capsys.readouterr()
