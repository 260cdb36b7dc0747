"""Whether a process still runs."""

import os
import subprocess
import sys
from dataclasses import replace

from runtime.groups.liveness import ProcessIdentity


def test_this_process_is_alive() -> None:
    me = ProcessIdentity.of_this_process()
    assert me.pid == os.getpid()
    assert me.is_alive()


def test_a_pid_that_was_used_again_is_not_the_same_process() -> None:
    me = ProcessIdentity.of_this_process()
    assert not replace(me, started=me.started - 1).is_alive()


def test_a_process_that_ended_is_gone_even_before_its_parent_looks() -> None:
    child = subprocess.Popen(["sleep", "60"])
    with open(f"/proc/{child.pid}/stat") as stat:
        started = int(stat.read().rpartition(")")[2].split()[19])
    identity = ProcessIdentity(pid=child.pid, started=started)
    assert identity.is_alive()
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # now a zombie
    assert not identity.is_alive()
    child.wait()
    assert not identity.is_alive()


def test_the_name_of_a_command_does_not_confuse_the_fields() -> None:
    code = (
        "from pathlib import Path; Path('/proc/self/comm').write_text('a) R (b');"
        "from runtime.groups.liveness import ProcessIdentity;"
        "assert ProcessIdentity.of_this_process().is_alive()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
