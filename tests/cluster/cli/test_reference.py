"""The written reference is current, help fits on a screen, and new options are a decision."""

import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cluster.cli.generated import DECLARATIONS
from cluster.cli.main import app
from cluster.cli.reference import frozen_names, reference

ROOT = Path(__file__).resolve().parents[3]
FROZEN = ROOT / "tests" / "data" / "options.txt"
MAX_FLAGS = 15
MORE_FLAGS = {"serve": 1, "generate": 2}
"""Adapters have two flags: those of a directory, and those of a running job. Each of four kinds of
constraints has one, and so have the two ways to follow them."""
MAX_HELP_LINES = 45


def test_the_committed_reference_is_current() -> None:
    written = (ROOT / "docs" / "reference.md").read_text()
    assert written == reference(DECLARATIONS), "run make reference"


def test_the_set_of_options_is_the_frozen_one() -> None:
    assert FROZEN.read_text() == frozen_names(DECLARATIONS), (
        "options changed: if that is meant, describe it in CHANGELOG.md and run make reference"
    )


@pytest.mark.parametrize("name", DECLARATIONS)
def test_a_verb_has_few_flags_and_its_help_fits_on_a_screen(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERMINAL_WIDTH", "100")
    result = CliRunner().invoke(app, [*name.split(), "--help"])
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) <= MAX_HELP_LINES
    assert "Example: paceline" in result.stdout
    assert "<bool>" not in result.stdout
    assert len(DECLARATIONS[name].flag_keys) <= MAX_FLAGS + MORE_FLAGS.get(name, 0)


@pytest.mark.parametrize("group", ["", "bench", "experiment"])
def test_the_help_of_a_group_gives_its_flag_no_type(group: str) -> None:
    result = CliRunner().invoke(app, [*group.split(), "--help"])
    assert result.exit_code == 0
    assert "--help" in result.stdout
    assert "<bool>" not in result.stdout


@pytest.mark.parametrize("name", DECLARATIONS)
def test_every_setting_is_documented_and_every_flag_is_a_setting(name: str) -> None:
    verb = DECLARATIONS[name]
    assert not [key for key, setting in verb.settings.items() if not setting.doc]
    assert set(verb.names) <= set(verb.settings)
    flags = list(verb.names.values())
    assert len(flags) == len(set(flags))


def test_the_settings_of_one_verb_are_listed() -> None:
    result = CliRunner().invoke(app, ["docs", "options", "cluster", "check"])
    assert result.exit_code == 0
    assert "models.ray_address  --ray  (text, or local; $RAY_ADDRESS, then auto)" in result.stdout


def test_the_servers_file_in_the_documents_has_keys_that_serve_knows() -> None:
    text = (ROOT / "docs" / "service.md").read_text()
    file = tomllib.loads(text.partition("```toml\n")[2].partition("```")[0])
    keys = {f"{k}.{name}" for k, v in file.items() if isinstance(v, dict) for name in v}
    keys |= {k for k, v in file.items() if not isinstance(v, dict)}
    assert keys
    assert keys <= set(DECLARATIONS["serve"].settings)
