"""`runtime.client` has all that a program needs and imports no library that loads for seconds."""

import subprocess
import sys

import runtime.client
from runtime.errors import PacelineError

HEAVY = {"torch", "ray", "transformers", "numpy", "safetensors"}


def test_importing_the_client_loads_neither_torch_nor_ray() -> None:
    program = "import sys, runtime.client; print(*sys.modules, sep='\\n')"
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120
    )
    loaded = {name.partition(".")[0] for name in run.stdout.splitlines()}
    assert "grpc" in loaded
    assert not HEAVY & loaded


def test_every_public_name_has_a_docstring_and_every_error_is_of_the_tree() -> None:
    public = {name: getattr(runtime.client, name) for name in runtime.client.__all__}
    classes = {name: kind for name, kind in public.items() if isinstance(kind, type)}
    assert set(public) - set(classes) == {"Prompt"}
    assert all(kind.__doc__ for kind in classes.values())
    assert all(
        issubclass(kind, PacelineError)
        for kind in classes.values()
        if issubclass(kind, BaseException)
    )
