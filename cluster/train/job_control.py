"""`paceline train status` and `cancel`: the progress of a job, and stopping it after its step."""

import json
import time
from pathlib import Path
from typing import Any

from cluster.options.train_options import TrainCancelOptions, TrainStatusOptions
from cluster.reports.run_report import output_console
from runtime.errors import ConfigError, PeerTimeout
from runtime.training.job.config_file import kept_config
from runtime.training.job.job_config import TrainConfig
from runtime.training.job.job_lock import cancel, is_running
from runtime.training.job_checkpoint import JobFiles


def show_status(options: TrainStatusOptions) -> int:
    """Print the last metrics of the job's models; return the exit code.

    Raises:
        ConfigError: there is no job in the directory.
    """
    config = kept_config(options.directory)
    running = is_running(options.directory)
    console = output_console()
    for trial in range(config.num_trials):
        found = {"running": running} | _state(config, config.trial(trial))
        if options.json:
            print(json.dumps(found))
            continue
        progress = f"{found.pop('out')}: step {found.pop('step')} of {found.pop('steps')}"
        state = (
            "done" if found.pop("done") else "running" if found.pop("running") else "not running"
        )
        console.print(f"{progress}, {state}")
        for name, value in found.items():
            console.print(f"  {name}: {value}")
        if state == "not running":
            console.print(f"resume it with paceline train resume {options.directory}")
    return 0


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
    metrics = Path(trial.out) / "metrics.jsonl"
    lines = JobFiles(Path(trial.out), trial).metrics()
    last = lines[-1] if lines else {"step": 0}
    quiet_s = round(time.time() - metrics.stat().st_mtime, 1) if lines else 0.0
    steps = config.optimizer.steps
    done = last["step"] >= steps
    return {"out": trial.out, "steps": steps, "done": done, "quiet_s": quiet_s} | last
