"""The files of a training job: its settings, its state after each step, its metrics."""

import hashlib
import json
import logging
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from parallel.training.adamw import AdamW, Vector
from parallel.training.run_history import Measured
from runtime.errors import ConfigError
from runtime.files.documents import read_text
from runtime.files.strict_json import parse_json, read_json_object
from runtime.files.vector_file import write_vectors
from runtime.training.adapters.saving import step_name
from runtime.training.choose import Choice
from runtime.training.job.job_config import SHARED_SEED, TrainConfig
from runtime.training.job.job_lock import LOCK
from runtime.training.training_step import StepReport


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundReport:
    """Progress of a shared-seed run after a round."""

    step: int
    """Rounds so far."""
    loss: float | None
    """Mean of the losses that machines reported last; None until one has reported."""
    num_machines: int
    """Machines whose scalars the round has."""
    num_scalars: int
    """Scalars of the round."""
    num_late: int
    """Scalars of an earlier round among them."""
    seconds: float


_LOG = logging.getLogger("paceline.train")
JOB_FILE = "job.json"
"""What determines a job's result, in its directory."""
_STATE, _PREVIOUS = "state.safetensors", "state.previous.safetensors"
_CHOICE = "scheme.json"
_BEST = "best.json"
_PARTS = ("parameters", "first", "second")


class JobFiles:
    """A job's directory."""

    def __init__(
        self,
        directory: Path,
        config: TrainConfig,
        *,
        data_digest: str = "",
        base_digest: str = "",
        start_digest: str = "",
    ) -> None:
        """Use a job's directory.

        The digests are of its samples, of its base's weights, and of the adapter it starts from.
        """
        self.directory = directory
        self._config = config
        self._data_digest = data_digest
        self._base_digest = base_digest
        self._start_digest = start_digest

    def open(self) -> AdamW | None:
        """Create the directory, or return the newest intact state in it.

        Raises:
            ConfigError: it belongs to a job with other settings, or all its states are damaged.
        """
        if self.claim():
            return None
        state = self._newest()
        self.cut_metrics(0 if state is None else state.step)
        return state

    def claim(self) -> bool:
        """Claim the directory for this job; return whether it was new.

        Raises:
            ConfigError: it belongs to a job with other settings.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        settings = self.directory / JOB_FILE
        learning_part = self._config.learning_part() | {
            "samples": self._data_digest,
            "base": self._base_digest,
        }
        if self._start_digest:
            learning_part["start"] = self._start_digest
        wanted = json.dumps(learning_part, indent=2, sort_keys=True)
        if not settings.exists():
            unfinished = {LOCK, f"{settings.name}.new"}  # of a run that was cut at its start
            if any(file.name not in unfinished for file in self.directory.iterdir()):
                raise ConfigError(
                    f"{self.directory} is not empty and holds no job: name another `out`"
                )
            _replace_text(settings, wanted)
            return True
        found = {"base": self._base_digest} | _read_settings(settings)  # older jobs have no base
        mine = parse_json(wanted, finite=False)
        if found != mine and not self._has_trained:
            _replace_text(settings, wanted)  # no step was made, so nothing depends on it
        elif found != mine and self._config.method != SHARED_SEED and _has_more_steps(found, mine):
            self._extend()
            _replace_text(settings, wanted)
        elif found != mine:
            changed = _changed(found, mine)
            raise ConfigError(
                f"{self.directory} holds a run with other settings or data ({changed}): give those "
                "back, or name another out"
            )
        return False

    def _extend(self) -> None:
        """Keep the result of a finished run as the adapter of its last step."""
        final, lines = self.directory / "final", self.metrics()
        if not final.is_dir() or not lines:
            return
        kept = self.directory / step_name(int(lines[-1]["step"]))
        if not kept.exists():
            final.replace(kept)

    def save_state(self, optimizer: AdamW) -> None:
        """Write the state; the previous one stays until this one is complete."""
        tensors = {name: getattr(optimizer, name) for name in _PARTS}
        metadata = {
            "step": str(optimizer.step),
            "skipped": str(optimizer.num_skipped),
            "sha256": _digest(tensors),
        }
        fresh = self.directory / "state.new"
        write_vectors(fresh, tensors, metadata)
        state = self.directory / _STATE
        if state.exists():
            state.replace(self.directory / _PREVIOUS)
        fresh.replace(state)

    def choice(self) -> Choice | None:
        """Return the scheme that was chosen for the job, if one was."""
        file = self.directory / _CHOICE
        if not file.exists():
            return None
        try:
            return Choice(**read_json_object(file))
        except TypeError as error:
            raise ConfigError(f"{file} holds no choice of a scheme ({error}): remove it") from error

    def keep_choice(self, choice: Choice) -> None:
        """Write the chosen scheme; a resumed run keeps it."""
        _replace_text(self.directory / _CHOICE, json.dumps(asdict(choice), indent=2) + "\n")

    def keep_best(self, best: Measured) -> None:
        """Write which evaluation was the best, of which best/ holds the result."""
        text = json.dumps({"step": best.step, best.name: best.value}) + "\n"
        _replace_text(self.directory / _BEST, text)

    def add_metrics(self, report: StepReport | RoundReport, more: Mapping[str, float]) -> None:
        """Append the line of a step to metrics.jsonl."""
        line = json.dumps(_without_nan(asdict(report) | dict(more))) + "\n"
        with self.metrics_file.open("a", encoding="utf-8") as file:
            file.write(line)

    def metrics(self) -> list[dict[str, float]]:
        """Return the lines of metrics.jsonl."""
        file = self.metrics_file
        lines = read_text(file).splitlines() if file.exists() else []
        whole = [(n, line) for n, line in enumerate(lines, start=1) if line.endswith("}")]
        return [_metric(line, f"{file}, line {number}") for number, line in whole]

    @property
    def metrics_file(self) -> Path:
        """The file of the metrics, a line for each step."""
        return self.directory / "metrics.jsonl"

    @property
    def _has_trained(self) -> bool:
        names = (_STATE, _PREVIOUS, self.metrics_file.name)
        return any((self.directory / name).exists() for name in names)

    def cut_metrics(self, step: int) -> None:
        """Drop the metrics after the state from which the run resumes."""
        if not self.metrics_file.exists():
            return
        kept = [line for line in self.metrics() if line["step"] <= step]
        text = "".join(json.dumps(line) + "\n" for line in kept)
        _replace_text(self.metrics_file, text)

    def _newest(self) -> AdamW | None:
        damaged = []
        for name in (_STATE, _PREVIOUS):
            file = self.directory / name
            if not file.exists():
                continue
            try:
                return _read_state(file)
            except (SafetensorError, ValueError, KeyError, OSError) as error:
                _LOG.warning("%s is damaged (%s): continuing from the state before it", file, error)
                damaged.append(str(file))
        if damaged:
            raise ConfigError(f"{' and '.join(damaged)} cannot be read: restart in another `out`")
        return None


def _without_nan(metrics: Mapping[str, object]) -> dict[str, object]:
    """Return metrics with null in place of numbers that JSON does not have."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in metrics.items()
    }


def _replace_text(file: Path, text: str) -> None:
    """Replace a file atomically."""
    fresh = file.with_name(file.name + ".new")
    fresh.write_text(text, encoding="utf-8")
    _sync(fresh)
    fresh.replace(file)


def _read_settings(file: Path) -> dict[str, Any]:
    try:
        return read_json_object(file, finite=False)
    except ConfigError as error:
        raise ConfigError(f"{error}; start again in another `out`") from error


def _metric(line: str, where: str) -> dict[str, float]:
    try:
        metric: dict[str, float] = parse_json(line, where, finite=False)
        metric["step"] + 0  # every reader needs it
        return metric
    except (KeyError, TypeError) as error:
        raise ConfigError(f"{where} is no step's metrics ({error}): remove it") from error


def _read_state(file: Path) -> AdamW:
    with safe_open(file, framework="numpy") as opened:
        metadata = opened.metadata() or {}
        tensors = {name: opened.get_tensor(name) for name in _PARTS}
    if _digest(tensors) != metadata["sha256"]:
        raise ValueError("digest mismatch")
    parameters, first, second = (tensors[name] for name in _PARTS)
    if not all(p.dtype == np.float32 and p.shape == parameters.shape for p in (first, second)):
        raise ValueError("its vectors differ in shape or type")
    skipped = int(metadata.get("skipped", "0"))  # older states do not have it
    return AdamW(parameters, first, second, int(metadata["step"]), skipped)


def _digest(tensors: Mapping[str, Vector]) -> str:
    digest = hashlib.sha256()
    for name in _PARTS:
        digest.update(np.ascontiguousarray(tensors[name]).data)
    return digest.hexdigest()


def _sync(file: Path) -> None:
    with file.open("rb") as opened:
        os.fsync(opened.fileno())


def _has_more_steps(found: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Return whether settings differ in their steps alone, and have more of them."""
    before, after = (dict(settings.get("optimizer", {})) for settings in (found, wanted))
    old, new = before.pop("steps", None), after.pop("steps")
    same = found | {"optimizer": before} == wanted | {"optimizer": after}
    return same and isinstance(old, int) and new > old


def _changed(old: object, new: object, name: str = "") -> str:
    """Return the names of the settings that differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(key for key in new if key not in old)]
        parts = [_changed(old.get(k), new.get(k), f"{name}.{k}".lstrip(".")) for k in keys]
        return ", ".join(part for part in parts if part)
    return "" if old == new else f"{name}: {old!r} became {new!r}"
