"""Runs a verb as a job's process and marks each line of its messages.

Ray writes both streams of a job into one log; `cluster/jobs/job_output.py` splits them again.
"""

import signal
import subprocess
import sys
from collections.abc import Sequence

from cluster.jobs.job_output import MARK


def main(arguments: Sequence[str]) -> int:
    """Run the command line with these arguments; return its exit code."""
    # Ray sends the signal that ends a job to the whole process group: the verb ends, then this.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    _say(b"started\n")
    command = [sys.executable, "-m", "cluster.cli", *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as verb:
        assert verb.stderr is not None
        for line in verb.stderr:
            _say(line)
    return verb.returncode if verb.returncode >= 0 else 128 - verb.returncode


def _say(line: bytes) -> None:
    """Write a line as a message, in one call so that no output comes between."""
    sys.stdout.buffer.write(MARK.encode() + line.removesuffix(b"\n") + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
