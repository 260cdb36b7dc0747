"""`paceline train status`: how far a job is."""

import json
import time
from pathlib import Path
from typing import Any

from cluster.options.train_options import TrainStatusOptions
from cluster.reports.run_report import output_console
from runtime.training.job.config_file import kept_config
from runtime.training.job.job_config import TrainConfig
from runtime.training.job.job_lock import is_running
from runtime.training.job_checkpoint import JobFiles


def run(options: TrainStatusOptions) -> int:
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
        where = f"{found.pop('out')}: step {found.pop('step')} of {found.pop('steps')}"
        doing = (
            "done" if found.pop("done") else "running" if found.pop("running") else "not running"
        )
        console.print(f"{where}, {doing}")
        for name, value in found.items():
            console.print(f"  {name}: {value}")
        if doing == "not running":
            console.print(f"paceline train resume {options.directory} goes on with it")
    return 0


def _state(config: TrainConfig, trial: TrainConfig) -> dict[str, Any]:
    metrics = Path(trial.out) / "metrics.jsonl"
    lines = JobFiles(Path(trial.out), trial).metrics()
    last = lines[-1] if lines else {"step": 0}
    quiet_s = round(time.time() - metrics.stat().st_mtime, 1) if lines else 0.0
    steps = config.optimizer.steps
    done = last["step"] >= steps
    return {"out": trial.out, "steps": steps, "done": done, "quiet_s": quiet_s} | last
