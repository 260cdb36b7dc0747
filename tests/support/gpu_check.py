"""Check and measure the kernels on a GPU: `make gpu-check`.

Tests run first, then measurements; each part has its own status, and a part that fails or finds no
time left says so in its row. Writes OUT.json and OUT.md; needs no download.
"""

import argparse
import gc
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from parallel.device_kernels.kernel_loader import load_kernels
from parallel.device_kernels.step_kernels import AttentionRows, Workspace
from tests.support.gpu_decode import SHAPES, ModelShape, measured_shape

ROOT = Path(__file__).resolve().parents[2]
BUDGET_S = 480.0
_KERNEL_TESTS = ("tests/parallel/triton_kernels", "tests/parallel/device_step")

Figures = Mapping[str, float | str]


@dataclass(frozen=True, kw_only=True)
class Part:
    """One check or measurement."""

    name: str
    run: Callable[[], Figures]
    """Returns figures, and raises if what it checks does not hold."""
    needs_s: float = 30.0
    """Time that must be left for it to start."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """What came of a part."""

    part: str
    status: str
    """ok, failed, or not run."""
    figures: Figures = field(default_factory=dict)
    reason: str = ""
    seconds: float = 0.0


def run_parts(
    parts: Sequence[Part], budget_s: float, now: Callable[[], float] = time.monotonic
) -> Iterator[Row]:
    """Yield a row for each part, whatever the others do."""
    stop = now() + budget_s
    for part in parts:
        begin = now()
        if stop - begin < part.needs_s:
            reason = f"{stop - begin:.0f} s are left, it needs {part.needs_s:.0f} s"
            yield Row(part=part.name, status="not run", reason=reason)
            continue
        try:
            figures = part.run()
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            yield Row(part=part.name, status="failed", reason=reason, seconds=now() - begin)
        else:
            yield Row(part=part.name, status="ok", figures=figures, seconds=now() - begin)


def table(device: str, rows: Sequence[Row]) -> str:
    """Return the rows as a table in Markdown."""
    lines = [f"Device: {device}", "", "| part | status | figures |", "| --- | --- | --- |"]
    for row in rows:
        figures = ", ".join(f"{name} {_shown(value)}" for name, value in row.figures.items())
        said = (figures or row.reason).replace("|", "/").replace("\n", " ")
        lines.append(f"| {row.part} | {row.status} | {said} |")
    return "\n".join(lines) + "\n"


def _shown(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"


def pytest_part(arguments: Sequence[str], timeout_s: float) -> Figures:
    """Run tests and return their last line; raise if one fails or none ran."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout_s)
    lines = finished.stdout.strip().splitlines() or ["no output"]
    if finished.returncode:
        raise AssertionError("; ".join([*(x for x in lines if x.startswith("FAILED")), lines[-1]]))
    return {"tests": lines[-1]}


def median_s(work: Callable[[], object], repeats: int = 30) -> float:
    """Return the median time of some work on the device, by its own events."""
    for _ in range(3):
        work()
    times: list[float] = []
    for _ in range(repeats):
        begin, end = _event(), _event()
        begin.record()
        work()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1e3)
    return sorted(times)[repeats // 2]


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]  # torch's


def copy_bandwidth() -> Figures:
    """Measure a copy of 1 GiB on the device, read and written."""
    source = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    seconds = median_s(lambda: target.copy_(source))
    return {"GB/s": 2 * source.numel() / seconds / 1e9}


@dataclass(frozen=True, kw_only=True)
class DecodeAttention:
    """One query for each sequence, over contexts of one length, in the shape of an 8B model."""

    batch: int
    context: int = 1024
    num_heads: int = 32
    num_kv: int = 8
    dim: int = 128
    page_size: int = 16

    def inputs(self, device: str) -> tuple[Tensor, Tensor, AttentionRows]:
        """Return queries, a cache of [2, num_kv, addresses, dim], and rows on shuffled pages."""
        generator = torch.Generator().manual_seed(0)
        num_pages = -(-self.context // self.page_size)
        tables = torch.randperm(self.batch * num_pages, generator=generator).view(self.batch, -1)

        def ints(values: Tensor) -> Tensor:
            return values.to(torch.int32).contiguous().to(device)

        numbers = torch.arange(self.batch)
        ones = torch.ones_like(numbers)
        rows = AttentionRows(
            tiles=ints(torch.stack((numbers, numbers, ones), dim=1)),
            ranges=ints(torch.stack((0 * ones, self.context * ones, self.context * ones), dim=1)),
            bits=ints(torch.zeros(self.batch, 1)),
            trees=ints(torch.full((self.batch,), 2**31 - 1)),
            tables=ints(tables),
            page_size=self.page_size,
        )
        places = (2, self.num_kv, self.batch * num_pages * self.page_size, self.dim)
        cache = torch.randn(places, dtype=torch.bfloat16, device=device)
        shape = (self.batch, self.num_heads, self.dim)
        return torch.randn(shape, dtype=torch.bfloat16, device=device), cache, rows


def attention(
    case: DecodeAttention,
    *,
    device: str = "cuda",
    measure: Callable[[Callable[[], object]], float] = median_s,
) -> Figures:
    """Compare both forms of paged attention with SDPA over contiguous contexts."""
    kernels = load_kernels()
    query, cache, rows = case.inputs(device)
    walked, split = torch.empty_like(query), torch.empty_like(query)
    splits = -(-rows.tables.shape[1] * case.page_size // kernels.split_size())
    places = (splits, case.batch, case.num_heads)
    workspace = Workspace(
        values=torch.empty((*places, case.dim), device=device),
        stats=torch.empty((*places, 2), device=device),
    )
    scale = 1 / math.sqrt(case.dim)

    def attend(out: Tensor, space: Workspace | None) -> None:
        kernels.attend(query, cache[0], cache[1], rows, out, scale=scale, workspace=space)

    pages = cache.view(2, case.num_kv, -1, case.page_size, case.dim)
    contexts = pages[:, :, rows.tables.long()].flatten(3, 4)[:, :, :, : case.context]
    keys, values = contexts.transpose(1, 2)

    def sdpa() -> Tensor:
        return F.scaled_dot_product_attention(query[:, :, None], keys, values, enable_gqa=True)

    figures = {
        "walked us": 1e6 * measure(lambda: attend(walked, None)),
        "split us": 1e6 * measure(lambda: attend(split, workspace)),
        "SDPA us": 1e6 * measure(sdpa),
    }
    if not torch.equal(walked, split):
        raise AssertionError("the two ways to add splits differ in a bit")
    error = (split.float() - sdpa()[:, :, 0].float()).abs().max().item()
    if not error < 2e-2:
        raise AssertionError(f"paged attention differs from SDPA by {error}")
    return {**figures, "largest difference": error}


def decode(shape: ModelShape) -> Figures:
    """Measure decode steps of a random model of this shape, in the memory that others left."""
    gc.collect()
    torch.cuda.empty_cache()
    return measured_shape(
        shape,
        batches=(1, 16, 64),
        context=1024,
        bytes_per_s=lambda: 1e9 * float(copy_bandwidth()["GB/s"]),
        measure=median_s,
    )


def all_parts() -> list[Part]:
    """Return what is checked and measured, in order."""
    parts = [
        Part(
            name="tests marked gpu",
            run=lambda: pytest_part(["-m", "gpu"], 150),
            needs_s=150,
        ),
        Part(
            name="tests of the kernels, compiled",
            run=lambda: pytest_part([*_KERNEL_TESTS], 200),
            needs_s=200,
        ),
        Part(name="copy on the device", run=copy_bandwidth),
    ]
    for batch in (1, 16, 64):
        case = DecodeAttention(batch=batch)
        name = f"decode attention, batch {batch}, context {case.context}"
        parts.append(Part(name=name, run=partial(attention, case)))
    for shape in SHAPES:
        name = f"decode steps, random bfloat16 model of {shape.name}, context 1024"
        parts.append(Part(name=name, run=partial(decode, shape), needs_s=60))
    return parts


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all parts, write both files, and return 0 if every part is ok."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("gpu-check"))
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("gpu-check: torch finds no CUDA device, so nothing was checked", file=sys.stderr)
        return 2
    device = f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    rows: list[Row] = []
    for row in run_parts(all_parts(), BUDGET_S):
        print(f"{row.part}: {row.status} {row.reason}", flush=True)
        rows.append(row)
        lines = {"device": device, "parts": [asdict(done) for done in rows]}
        options.out.with_suffix(".json").write_text(json.dumps(lines, indent=1) + "\n")
        options.out.with_suffix(".md").write_text(table(device, rows))
    return int(any(row.status != "ok" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
