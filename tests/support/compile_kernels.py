"""Compile every launch of the Triton kernels to machine code, without a GPU.

    python -m tests.support.compile_kernels CAPABILITY DTYPE HEAD_DIM

The operators are called on tensors of the CPU; each launch that they make is compiled, with the
constants and options of that launch, in place of being run. Prints a JSON line for each.
"""

import json
import sys
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from parallel.device_kernels.kernel_loader import load_kernels
from parallel.device_kernels.step_kernels import AttentionRows, HeadNorms, StepKernels, Workspace

_POINTERS = {
    torch.float64: "*fp64",
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.int64: "*i64",
    torch.int32: "*i32",
}
_ALIGNED = [["tt.divisibility", 16]]
ROWS, HEADS, KV = 3, 8, 2


class LaunchCompiler:
    """Stands in for `JITFunction.run`."""

    def __init__(self, capability: int) -> None:
        self._capability = capability

    def run(self, kernel: Any, *args: Any, grid: object, warmup: bool, **kwargs: Any) -> None:
        """Compile one launch, specialized as Triton does: by divisibility, and by ones."""
        del grid, warmup
        values = dict(zip(kernel.arg_names, args, strict=False)) | {
            name: kwargs.pop(name) for name in list(kwargs) if name in kernel.arg_names
        }
        signature, constants, attributes = {}, {}, {}
        for param in kernel.params:
            value = values[param.name]
            is_special = type(value) is int and value == 1 and not param.do_not_specialize
            if param.is_constexpr or is_special:
                signature[param.name], constants[param.name] = "constexpr", value
                continue
            signature[param.name] = _type_of(value)
            is_aligned = isinstance(value, Tensor) or (type(value) is int and value % 16 == 0)
            if is_aligned and not param.do_not_specialize:
                attributes[(param.num,)] = _ALIGNED
        source = ASTSource(kernel, signature, constants, attributes)
        target = GPUTarget("cuda", self._capability, 32)
        compiled = triton.compile(source, target=target, options=kwargs)
        line = {
            "kernel": kernel.__name__,
            "shared_bytes": compiled.metadata.shared,
            "code_bytes": len(compiled.asm["cubin"]),
        }
        print(json.dumps(line), flush=True)


def _type_of(value: object) -> str:
    if isinstance(value, Tensor):
        return _POINTERS[value.dtype]
    return "fp32" if isinstance(value, float) else "i32"


def launch_all(kernels: StepKernels, dtype: torch.dtype, dim: int) -> None:
    """Call each operator once, and attention in its two forms."""

    def numbers(*shape: int) -> Tensor:
        return torch.zeros(*shape, dtype=dtype)

    def ints(*shape: int) -> Tensor:
        return torch.zeros(*shape, dtype=torch.int32)

    cache = numbers(2, KV, 64, dim)
    rows = AttentionRows(
        tiles=ints(2, 3),
        ranges=ints(ROWS, 3),
        bits=ints(ROWS, 1),
        trees=ints(2),
        tables=ints(2, 4),
        page_size=16,
    )
    workspace = Workspace(
        values=torch.zeros(1, ROWS, HEADS, dim), stats=torch.zeros(1, ROWS, HEADS, 2)
    )
    query = numbers(ROWS, HEADS, dim)
    for place in (None, workspace):
        kernels.attend(
            query, cache[0], cache[1], rows, numbers(ROWS, HEADS, dim), scale=0.1, cap=30.0,
            workspace=place,
        )  # fmt: skip
    heads = numbers(ROWS, HEADS + 2 * KV, dim)
    turns = torch.zeros(64, dim // 2, 2)
    norms = HeadNorms(query=numbers(dim), key=numbers(dim), eps=1e-6, adds_one=True)
    kernels.rotate_and_store(heads, turns, ints(ROWS), ints(ROWS), cache[0], cache[1], norms=norms)
    kernels.move(cache.flatten(0, 1), ints(3), ints(4, 2))
    x, weight = numbers(ROWS, 1152), numbers(1152)
    kernels.add_and_norm(
        x, x.clone(), weight, x.clone(), eps=1e-6, adds_one=True, inner_weight_E=weight
    )
    for outputs, out_dtype in ((300, dtype), (32_000, torch.float32)):
        out = torch.zeros(ROWS, outputs, dtype=out_dtype)
        kernels.multiply(x, numbers(outputs, 1152), numbers(outputs), out)
    kernels.gate(numbers(ROWS, 2 * 512), numbers(ROWS, 512), gelu=True)
    draws = torch.zeros(ROWS, 4, dtype=torch.int64)
    num_blocks = kernels.num_candidates(50_000)
    candidates = torch.zeros(ROWS, num_blocks, 3, dtype=torch.float64)
    kernels.score_tokens(torch.zeros(ROWS, 50_000), draws, candidates)
    kernels.choose_tokens(candidates, draws, ints(ROWS))
    kernels.match_drafts(ints(ROWS), ints(2, 2), ints(2, 24), ints(2, 24), ints(2, 26))


if __name__ == "__main__":
    compiler = LaunchCompiler(int(sys.argv[1]))
    JITFunction.run = lambda self, *args, **kwargs: compiler.run(self, *args, **kwargs)
    launch_all(load_kernels(), getattr(torch, sys.argv[2]), int(sys.argv[3]))
