"""What `make gpu-check` checks and measures, in order."""

import subprocess
import sys
from collections.abc import Sequence
from functools import partial

from tests.support.gpu_check import ROOT, Figures, Part, main
from tests.support.gpu_decode import SHAPES
from tests.support.gpu_measures import attention_of_batches, copy_bandwidth, decode, launches
from tests.support.gpu_pearl import ON_ONE_GPU, ON_THE_CPU, pearl, transformers, two_gpus

_KERNEL_TESTS = ("tests/parallel/triton_kernels", "tests/parallel/device_step")


def pytest_part(arguments: Sequence[str]) -> Figures:
    """Run tests and return their last line; raise if one fails or none ran."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    lines = finished.stdout.strip().splitlines() or ["no output"]
    if finished.returncode:
        raise AssertionError("; ".join([*(x for x in lines if x.startswith("FAILED")), lines[-1]]))
    return {"tests": lines[-1]}


def all_parts() -> list[Part]:
    """Return all parts; their limits together exceed the budget, which bounds their sum."""
    return [
        Part(name="tests marked gpu", run=lambda: pytest_part(["-m", "gpu"]), limit_s=60),
        Part(
            name="tests of the kernels, compiled",
            run=lambda: pytest_part([*_KERNEL_TESTS]),
            limit_s=120,
        ),
        Part(name="copy on the device", run=copy_bandwidth),
        Part(name="decode attention, context 1024", run=attention_of_batches, limit_s=40),
        *(
            Part(
                name=f"decode steps, random bfloat16 model of {shape.name}, context 1024",
                run=partial(decode, shape),
                limit_s=60,
                needs_s=30,
            )
            for shape in SHAPES
        ),
        Part(
            name=f"kernels of a step, random bfloat16 model of {SHAPES[0].name}",
            run=partial(launches, SHAPES[0]),
        ),
        Part(
            name="PEARL, target on the GPU, drafter on the CPUs over gRPC",
            run=partial(pearl, ON_THE_CPU),
            limit_s=80,
            needs_s=30,
        ),
        Part(
            name="PEARL, target and drafter on one GPU",
            run=partial(pearl, ON_ONE_GPU),
            limit_s=80,
            needs_s=30,
        ),
        Part(
            name="transformers' generate, the same model and prompts",
            run=transformers,
            limit_s=60,
        ),
        Part(name="a target on two GPUs, over NCCL", run=two_gpus, limit_s=60),
    ]


if __name__ == "__main__":
    sys.exit(main(all_parts()))
