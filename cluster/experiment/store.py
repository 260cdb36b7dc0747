"""A results directory: one line for each run of each point, so that experiments resume."""

import fcntl
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from cluster.experiment.experiment_config import Experiment, make_experiment
from cluster.experiment.predict import Prediction
from runtime.errors import ConfigError
from runtime.files.documents import DocumentError, read_text
from runtime.files.strict_json import parse_json, parse_object, read_json, read_json_object
from runtime.timeline import PhaseSpan, SpanKind

CONFIG, RESULTS, PLAN, ENVIRONMENT = (
    "experiment.json",
    "results.jsonl",
    "plan.json",
    "environment.jsonl",
)
TIMELINES = "timelines"
_FREE = ("out", "title", "repeats", "order", "timeline", "ray", "sweep", "network")
"""Fields that may change between runs into one directory: results do not depend on them."""
_SIMULATED = {"train": ("overhead", "turn")}
"""Keys that only the simulator reads, and that may change to fit it to the measurements."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredPoint:
    """The result of one run of one point, or its error."""

    key: str
    repeat: int
    rate: float = 0.0
    """Tokens or samples per second."""
    wall_s: float = 0.0
    figures: dict[str, float]
    """The other figures by name."""
    digest: str = ""
    """The digest of all output tokens."""
    error: str = ""
    """The error that prevented the measurement."""


class Store:
    """The exclusive writer of a results directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._file: TextIO | None = None

    def __enter__(self) -> "Store":
        """Lock the directory, and drop an incomplete line of an interrupted run.

        Raises:
            ConfigError: another process writes to the directory, or it cannot be created.
        """
        try:
            (self.directory / TIMELINES).mkdir(parents=True, exist_ok=True)
            self._file = (self.directory / RESULTS).open("a+", encoding="utf-8")
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            assert self._file is not None
            self._file.close()
            raise ConfigError(
                f"another run writes to {self.directory}: wait for it, or name another out"
            ) from error
        except OSError as error:
            raise ConfigError(f"out is {self.directory}: {error}") from error
        self._file.seek(0)
        text = self._file.read()
        self._file.truncate(len(text[: text.rfind("\n") + 1].encode()))
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Release it."""
        if self._file is not None:
            self._file.close()

    def keep_config(self, experiment: Experiment) -> None:
        """Save the experiment for the report and for later runs.

        Raises:
            ConfigError: the directory has measurements of an experiment that differs.
        """
        whole = experiment.model_dump(mode="json")
        file = self.directory / CONFIG
        if file.exists() and read_results(self.directory):
            before = read_config(self.directory).model_dump(mode="json")
            for name in whole:
                old, new = _measured(name, before[name]), _measured(name, whole[name])
                if name not in _FREE and old != new:
                    raise ConfigError(
                        f"{name} is {_differing(new, old)}, but the results in {self.directory} "
                        f"were measured with {_differing(old, new)}: name another out"
                    )
        self._write(file, whole | {"out": "."})

    def keep_plan(self, predictions: dict[str, Prediction]) -> None:
        """Save the prediction of each point."""
        plan = {key: asdict(prediction) for key, prediction in predictions.items()}
        self._write(self.directory / PLAN, plan)

    def keep_environment(self, environment: dict[str, object]) -> None:
        """Add the environment of this run."""
        with (self.directory / ENVIRONMENT).open("a", encoding="utf-8") as file:
            file.write(json.dumps(environment) + "\n")

    def keep(self, measured: MeasuredPoint) -> None:
        """Write a run to disk."""
        assert self._file is not None
        self._file.write(json.dumps(asdict(measured)) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def keep_timeline(self, key: str, spans: Sequence[PhaseSpan]) -> None:
        """Save the recorded spans of a point."""
        rows = [[s.phase.value, round(s.start_s, 6), round(s.end_s, 6), s.size] for s in spans]
        self._write(self.directory / TIMELINES / f"{key}.json", rows)

    @staticmethod
    def _write(file: Path, value: object) -> None:
        fresh = file.with_suffix(".new")
        text = json.dumps(value, indent=None if isinstance(value, list) else 1) + "\n"
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(file)


def read_results(directory: Path) -> list[MeasuredPoint]:
    """Return the newest result of each run."""
    found: dict[tuple[str, int], MeasuredPoint] = {}
    for line in _text(directory / RESULTS).splitlines():
        try:
            measured = MeasuredPoint(**parse_json(line, finite=False))
        except (ValueError, TypeError):
            continue  # the incomplete last line of an interrupted run
        found[measured.key, measured.repeat] = measured
    return list(found.values())


def read_config(directory: Path) -> Experiment:
    """Return the experiment of a results directory.

    Raises:
        ConfigError: the directory has no experiment.
    """
    if not (directory / CONFIG).exists():
        raise ConfigError(
            f"{directory} holds no experiment (no {CONFIG}): name the directory "
            "that `experiment run` wrote"
        )
    return make_experiment(read_json_object(directory / CONFIG, finite=False)).model_copy(
        update={"out": str(directory)}
    )


def read_plan(directory: Path) -> dict[str, Prediction]:
    """Return the predictions by the keys of the points."""
    file = directory / PLAN
    if not file.exists():
        return {}
    try:
        return {
            key: Prediction(**figures)
            for key, figures in read_json_object(file, finite=False).items()
        }
    except TypeError as error:
        raise ConfigError(f"{file} holds no plan ({error}): remove it") from error


def read_environment(directory: Path) -> dict[str, Any]:
    """Return the environment of the last run."""
    file = directory / ENVIRONMENT
    lines = _text(file).splitlines()
    return parse_object(lines[-1], f"{file}, line {len(lines)}", finite=False) if lines else {}


def read_timeline(directory: Path, key: str) -> list[PhaseSpan]:
    """Return the recorded spans of a point; an empty list if none were recorded."""
    file = directory / TIMELINES / f"{key}.json"
    if not file.exists():
        return []
    try:
        return [PhaseSpan(SpanKind(row[0]), *row[1:]) for row in read_json(file, finite=False)]
    except DocumentError:
        raise
    except (ValueError, TypeError, LookupError) as error:
        raise ConfigError(f"{file} holds no timeline ({error}): remove it") from error


def _text(file: Path) -> str:
    return read_text(file) if file.exists() else ""


def _measured(name: str, value: Any) -> Any:
    """Return the part of a section that results depend on."""
    if name not in _SIMULATED or value is None:
        return value
    return {key: part for key, part in value.items() if key not in _SIMULATED[name]}


def _differing(value: object, other: object) -> str:
    """Return only the keys of a section that differ."""
    if isinstance(value, dict) and isinstance(other, dict):
        return str({key: mine for key, mine in value.items() if other.get(key) != mine})
    return repr(value)
