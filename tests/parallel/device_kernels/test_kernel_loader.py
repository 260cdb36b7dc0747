import os
import subprocess
import sys
from pathlib import Path

import pytest

from parallel.device_kernels.kernel_loader import KernelsMissing, load_kernels

ROOT = Path(__file__).resolve().parents[3]


def test_without_the_package_the_error_names_what_to_install() -> None:
    with pytest.raises(KernelsMissing, match=r"no_such_triton: .*pip install 'paceline\[gpu\]'"):
        load_kernels("no_such_triton")


def test_the_kernels_are_those_of_triton() -> None:
    pytest.importorskip("triton")
    assert type(load_kernels()).__name__ == "TritonKernels"


def test_nothing_loads_triton_but_the_loader() -> None:
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for room in ("device_kernels", "device_step", "model")
        for path in (ROOT / "parallel" / room).glob("*.py")
        if path.name != "__init__.py"
    ]
    program = f"""
import sys
from importlib import import_module

sys.modules["triton"] = None  # every import of it fails
for module in {modules}:
    import_module(module)
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT, env={**os.environ})
