"""The table of verbs loads a verb's modules only when the verb is started."""

import subprocess
import sys

_PROGRAM = """
import sys
import cluster.cli.table
print(*sorted(name for name in sys.modules if name.count(".") < 2))
"""


def test_importing_the_table_loads_no_room_of_a_verb() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True, timeout=120
    )
    loaded = set(done.stdout.split())
    assert "cluster.options" in loaded
    assert not loaded & {
        "torch",
        "ray",
        "grpc",
        "cluster.generate",
        "cluster.serve",
        "cluster.train",
    }
