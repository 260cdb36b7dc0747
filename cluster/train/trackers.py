"""Sends a job's numbers to Weights & Biases and MLflow, in threads: a job continues without them.

Both libraries are optional, and loaded where they are asked for.
"""

import importlib
import importlib.util
import json
import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

from runtime.errors import ConfigError
from runtime.files.strict_json import read_json_object
from runtime.training.job.watch_config import WatchConfig

_LOG = logging.getLogger("paceline.train")
_RUNS = "trackers.json"
"""The job's runs in the trackers, which a resumed job continues."""
_MOST_WAITING = 10_000
"""Steps that may wait for a slow tracker."""
_CLOSE_S = 30.0
_LONGEST_VALUE = 500
"""Characters that MLflow keeps of a setting."""


class Tracker(Protocol):
    """A run in a tracker; its methods may block, and raise anything."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Send the numbers of a step."""
        ...

    def close(self) -> None:
        """End the run."""
        ...


def check_installed(config: WatchConfig) -> None:
    """Raise ConfigError for a tracker that is asked for and not installed."""
    for name in ("wandb", "mlflow"):
        value = getattr(config, name)
        if value and importlib.util.find_spec(name) is None:
            raise ConfigError(
                f"`watch.{name}` is {value!r}, and the package {name} is not installed: "
                f"pip install {name}, or leave it out"
            )


def open_trackers(
    config: WatchConfig, directory: Path, settings: Mapping[str, object]
) -> "list[BackgroundTracker]":
    """Start the trackers that are asked for.

    Args:
        config: names the project and the experiment.
        directory: the job's.
        settings: of the job, by dotted key.
    """
    found = []
    if config.wandb:
        found.append(
            BackgroundTracker(
                "Weights & Biases", lambda: WandbTracker(config.wandb, directory, settings)
            )
        )
    if config.mlflow:
        found.append(
            BackgroundTracker("MLflow", lambda: MlflowTracker(config.mlflow, directory, settings))
        )
    return found


class BackgroundTracker:
    """A tracker in a thread of its own, which no failure and no delay of it ends."""

    def __init__(
        self, name: str, open_run: Callable[[], Tracker], *, close_s: float = _CLOSE_S
    ) -> None:
        """Open a tracker's run in the thread; `close` waits for it at most so long."""
        self._name = name
        self._open_run = open_run
        self._close_s = close_s
        self._steps: queue.Queue[tuple[int, Mapping[str, float]] | None] = queue.Queue(
            _MOST_WAITING
        )
        self._is_off = False
        self._thread = threading.Thread(target=self._work, name=f"tracker {name}", daemon=True)
        self._thread.start()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Send the numbers of a step some time later."""
        if self._is_off:
            return
        try:
            self._steps.put_nowait((step, values))
        except queue.Full:
            self._fail(f"{_MOST_WAITING} steps wait for it")

    def close(self) -> None:
        """End the run, once all steps are sent or after the time is over."""
        try:
            self._steps.put_nowait(None)
        except queue.Full:
            return
        self._thread.join(self._close_s)
        if self._thread.is_alive():
            self._fail(f"it did not answer within {self._close_s:g} s")

    def _work(self) -> None:
        try:
            run = self._open_run()
            while not self._is_off and (found := self._steps.get()) is not None:
                run.log(*found)
            run.close()
        except (Exception, SystemExit) as error:  # a library can raise anything
            self._fail(f"{type(error).__name__}: {error}")

    def _fail(self, why: str) -> None:
        if not self._is_off:
            self._is_off = True
            why = " ".join(why.split())
            _LOG.warning("%s receives no more numbers (%s): the job continues", self._name, why)


class WandbTracker:
    """A run of Weights & Biases."""

    def __init__(self, project: str, directory: Path, settings: Mapping[str, object]) -> None:
        """Open the job's run in a project, or continue it."""
        wandb: Any = importlib.import_module("wandb")
        name = _run_of(directory, "wandb") or uuid4().hex[:8]
        _keep_run(directory, "wandb", name)
        self._run = wandb.init(
            project=project,
            id=name,
            name=directory.name,
            dir=str(directory),
            config=dict(settings),
            resume="allow",
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Send the numbers of a step."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """End the run."""
        self._run.finish()


class MlflowTracker:
    """A run of MLflow, on the server that its environment variables name."""

    def __init__(self, experiment: str, directory: Path, settings: Mapping[str, object]) -> None:
        """Open the job's run in an experiment, or continue it."""
        self._mlflow: Any = importlib.import_module("mlflow")
        self._entities: Any = importlib.import_module("mlflow.entities")
        self._client = self._mlflow.MlflowClient()
        known = _run_of(directory, "mlflow")
        if known is not None:
            self._id = known
            self._client.update_run(known, status="RUNNING")
            return
        found = self._client.get_experiment_by_name(experiment)
        number = found.experiment_id if found else self._client.create_experiment(experiment)
        self._id = self._client.create_run(number, run_name=directory.name).info.run_id
        _keep_run(directory, "mlflow", self._id)
        params = [
            self._entities.Param(key, str(value)[:_LONGEST_VALUE])
            for key, value in settings.items()
        ]
        self._client.log_batch(self._id, params=params)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Send the numbers of a step."""
        now_ms = int(time.time() * 1000)
        metrics = [self._entities.Metric(name, v, now_ms, step) for name, v in values.items()]
        self._client.log_batch(self._id, metrics=metrics)

    def close(self) -> None:
        """End the run."""
        self._client.set_terminated(self._id)


def dotted(table: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Return a table of tables as one, with dotted keys; empty values are left out."""
    found: dict[str, object] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            found |= dotted(value, f"{prefix}{key}.")
        elif value not in ("", None) and value != []:
            found[prefix + key] = value
    return found


def _run_of(directory: Path, tracker: str) -> str | None:
    """Return the job's run in a tracker; None if it has none."""
    file = directory / _RUNS
    value = read_json_object(file).get(tracker) if file.exists() else None
    return value if isinstance(value, str) else None


def _keep_run(directory: Path, tracker: str, name: str) -> None:
    file = directory / _RUNS
    runs = read_json_object(file) if file.exists() else {}
    file.write_text(json.dumps(runs | {tracker: name}) + "\n", encoding="utf-8")
