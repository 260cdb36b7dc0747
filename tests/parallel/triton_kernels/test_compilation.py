"""Every launch compiles to machine code for GPUs, on a machine without one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
SHARED_BYTES = 99 * 1024
"""What a program may use on every GPU from compute capability 8.0 on; 8.6 and 8.9 have least."""
KERNELS = {
    "attend_splits",
    "attend_tiles",
    "choose_tokens",
    "gate_columns",
    "match_drafts",
    "merge_splits",
    "move_tokens",
    "multiply_rows",
    "norm_rows",
    "rotate_and_store",
    "score_tokens",
}


def check(capability: int, dtype: str, dim: int, cache: Path) -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(cache)}
    command = ["-m", "tests.support.compile_kernels", str(capability), dtype, str(dim)]
    finished = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, cwd=ROOT, env=environment
    )
    assert finished.returncode == 0, finished.stderr
    launches = [json.loads(line) for line in finished.stdout.splitlines()]
    assert {launch["kernel"] for launch in launches} == KERNELS
    assert all(launch["code_bytes"] for launch in launches)
    assert max(launch["shared_bytes"] for launch in launches) <= SHARED_BYTES


def test_every_launch_compiles_for_a_gpu(tmp_path: Path) -> None:
    check(90, "bfloat16", 128, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 89, 90, 100])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("dim", [64, 80, 96, 128, 256])
def test_every_launch_compiles_for_any_gpu(
    capability: int, dtype: str, dim: int, tmp_path: Path
) -> None:
    check(capability, dtype, dim, tmp_path)
