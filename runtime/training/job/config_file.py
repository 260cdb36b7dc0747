"""Reads a training job's configuration, and writes it to the job's directory."""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from runtime.checking.tables import make
from runtime.errors import ConfigError
from runtime.files.documents import DocumentError, parse_toml, read_toml
from runtime.files.strict_json import read_json_object
from runtime.training.job.config_checks import check_config
from runtime.training.job.job_config import TrainConfig

_KEPT = "config.json"
_LENGTHS = {f"optimizer.{key}": key for key in ("steps", "epochs")}
"""The settings that say how long a job is, of which it has one."""


def load_config(file: Path, settings: Sequence[str] = ()) -> TrainConfig:
    """Read a configuration; `section.key=value` settings replace its values.

    Paths in the file are relative to it.

    Raises:
        ConfigError: it cannot be read, or a value cannot be used; names the key.
    """
    config = _made(file, read_toml(file), settings)
    return _located(config, file.parent)


def keep_config(config: TrainConfig) -> None:
    """Write a job's whole configuration to its directory, for `kept_config`."""
    out = Path(config.out)
    fresh = out / f"{_KEPT}.new"
    fresh.write_text(json.dumps(asdict(config), indent=2) + "\n", encoding="utf-8")
    fresh.replace(out / _KEPT)


def kept_config(directory: Path, settings: Sequence[str] = ()) -> TrainConfig:
    """Return the configuration of the job in a directory; settings replace its values.

    Raises:
        ConfigError: there is no job, or a setting cannot be used.
    """
    if not (directory / _KEPT).exists():
        raise ConfigError(f"{directory} holds no training job: it has no {_KEPT}")
    table = read_json_object(directory / _KEPT, finite=False)
    return _made(directory / _KEPT, table | {"out": str(directory)}, settings)


def _made(file: Path, table: dict[str, Any], settings: Sequence[str]) -> TrainConfig:
    try:
        _check_length(table.get("optimizer"))
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from error
    for setting in settings:
        _set(table, setting)
        name = setting.partition("=")[0].strip()
        if name in _LENGTHS:  # it replaces the file's length, however that is given
            for other in _LENGTHS.keys() - {name}:
                table["optimizer"].pop(_LENGTHS[other], None)
    try:
        config = make(TrainConfig, table)
        check_config(config)
    except ConfigError as error:
        where = f"{file} with `settings`" if settings else str(file)
        raise ConfigError(f"{where}: {error}") from error
    return config


def _check_length(optimizer: object) -> None:
    if isinstance(optimizer, dict):
        given = [key for key in _LENGTHS.values() if optimizer.get(key) not in (None, "off")]
        if len(given) > 1:
            raise ConfigError("give `optimizer.steps` or `optimizer.epochs`, not both")


def _set(table: dict[str, Any], setting: str) -> None:
    name, separator, text = setting.partition("=")
    if not separator:
        raise ConfigError(f"`settings` {setting!r}: write section.key=value")
    try:
        read = parse_toml(f"value = {text}", "`settings`")
    except DocumentError:
        read = {}
    value = read["value"] if read.keys() == {"value"} else text
    *path, last = name.strip().split(".")
    for part in path:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise ConfigError(f"`settings` {setting!r}: {part} is not a section")
    table[last] = value


def _located(config: TrainConfig, base: Path) -> TrainConfig:
    """Return the configuration with absolute paths; a model's is relative to the current one."""

    def place(text: str) -> str:
        return str((base / Path(text).expanduser()).resolve()) if text else ""

    data = replace(
        config.data,
        train=place(config.data.train),
        eval=place(config.data.eval),
        mix={place(file): share for file, share in config.data.mix.items()},
    )
    is_path = Path(config.model).exists()
    model = str(Path(config.model).resolve()) if is_path else config.model
    out = str(base / Path(config.out).expanduser())
    seeded = config.shared_seed
    files = {
        name: place(getattr(seeded, name))
        for name in ("token_file", "tls_cert", "tls_key", "client_ca")
    }
    seeded = replace(seeded, **files)  # type: ignore[arg-type]  # all are texts
    lora = replace(config.lora, start=place(config.lora.start))
    return replace(config, model=model, out=out, data=data, lora=lora, shared_seed=seeded)
