"""`paceline train cancel`: let a running job end after its step."""

import json

from cluster.options.train_options import TrainCancelOptions
from cluster.reports.run_report import output_console
from runtime.errors import ConfigError, PeerTimeout
from runtime.training.job.job_lock import cancel, is_running


def run(options: TrainCancelOptions) -> int:
    """Ask the job to end and wait until it has; return the exit code.

    Raises:
        ConfigError: no job runs in the directory.
        PeerTimeout: it goes on still; it ends after its step.
    """
    if not is_running(options.directory):
        raise ConfigError(f"no job runs in {options.directory}")
    if not cancel(options.directory, options.timeout_s):
        raise PeerTimeout(
            f"the job in {options.directory} goes on still after {options.timeout_s:g} s; "
            "it was asked to end after its step"
        )
    if options.json:
        print(json.dumps({"cancelled": str(options.directory)}))
    else:
        output_console().print(
            f"cancelled; paceline train resume {options.directory} goes on with it"
        )
    return 0
