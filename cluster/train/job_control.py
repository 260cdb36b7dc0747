"""`paceline train status` and `cancel`: the progress of a job, and stopping it after its step."""

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from cluster.options.train_options import TrainCancelOptions, TrainStatusOptions
from cluster.reports.run_report import output_console
from cluster.train.progress import duration, figures
from parallel.training.run_history import RunHistory
from runtime.errors import ConfigError, PeerTimeout
from runtime.training.job.config_file import kept_config
from runtime.training.job.job_config import TrainConfig
from runtime.training.job.job_lock import cancel, is_running
from runtime.training.job_checkpoint import JobFiles

_LOOK_S = 1.0
_RECENT = 20
"""Steps whose mean time says how long the job still takes."""


def show_status(options: TrainStatusOptions, *, sleep: Callable[[float], None] = time.sleep) -> int:
    """Print the last metrics of the job's models, with `watch` after every step; return 0.

    Args:
        options: the job, and how to show it.
        sleep: waits between two looks at the job.

    Raises:
        ConfigError: there is no job in the directory.
    """
    config = kept_config(options.directory)
    console = output_console()
    shown: list[dict[str, Any]] = []
    while True:
        running = is_running(options.directory)
        states = [_state(config, config.trial(number)) for number in range(config.num_trials)]
        if (now := [_without_times(state) for state in states]) != shown or not running:
            shown = now
            for state in states:
                _show(state | {"running": running}, options, console)
        if not (options.watch and running):
            return 0
        try:
            sleep(_LOOK_S)
        except KeyboardInterrupt:  # the job continues
            return 0


def _show(state: dict[str, Any], options: TrainStatusOptions, console: Console) -> None:
    """Print the state of a model: whole, or as one line where it is shown again."""
    if options.json:
        print(json.dumps(state), flush=True)
        return
    progress = f"{state.pop('out')}: step {state.pop('step')} of {state.pop('steps')}"
    words = {(True, False): "done", (True, True): "done", (False, True): "running"}
    word = words.get((state.pop("done"), state.pop("running")), "not running")
    left_s = state.pop("left_s")
    left = f", about {duration(left_s)} left" if word == "running" and left_s else ""
    if options.watch and word == "running":
        console.print(f"{progress}{left}: {figures(state)}", soft_wrap=True)
        return
    console.print(f"{progress}, {word}{left}", soft_wrap=True)
    for name, value in state.items():
        console.print(f"  {name}: {value}")
    if word == "not running":
        console.print(f"resume it with paceline train resume {options.directory}")


def cancel_job(options: TrainCancelOptions) -> int:
    """Ask the job to stop and wait until it has; return the exit code.

    Raises:
        ConfigError: no job runs in the directory.
        PeerTimeout: it still runs; it stops after its step.
    """
    if not is_running(options.directory):
        raise ConfigError(f"no job runs in {options.directory}")
    if not cancel(options.directory, options.timeout_s):
        raise PeerTimeout(
            f"the job in {options.directory} still runs after {options.timeout_s:g} s; it was "
            "asked to stop after its step"
        )
    if options.json:
        print(json.dumps({"cancelled": str(options.directory)}))
    else:
        output_console().print(f"cancelled; resume with paceline train resume {options.directory}")
    return 0


def _state(config: TrainConfig, trial: TrainConfig) -> dict[str, Any]:
    """Return a model's progress, and its last metrics."""
    directory = Path(trial.out)
    files = JobFiles(directory, trial)
    lines = files.metrics()
    last = lines[-1] if lines else {"step": 0}
    quiet_s = round(time.time() - files.metrics_file.stat().st_mtime, 1) if lines else 0.0
    steps, settings = config.optimizer.steps, config.early_stop
    history = RunHistory(lines)
    has_stalled = history.has_stalled(settings.patience, settings.min_gain)
    done = last["step"] >= steps or (has_stalled and (directory / "final").is_dir())
    recent = [line["seconds"] for line in lines[-_RECENT:] if line.get("seconds") is not None]
    left_s = (steps - last["step"]) * sum(recent) / len(recent) if recent else 0.0
    state = {"out": trial.out, "steps": steps, "done": done, "quiet_s": quiet_s}
    if history.best is not None:
        state |= {"best_step": history.best.step, f"best_{history.best.name}": history.best.value}
    if history.is_diverging:
        state["diverging"] = True
    return state | {"left_s": 0.0 if done else round(left_s, 1)} | last


def _without_times(state: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in state.items() if name not in ("quiet_s", "left_s")}
