"""What `make gpu-check` measures of the kernels: copies, attention, decode steps and launches."""

import gc
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from parallel.device_kernels.kernel_loader import load_kernels
from parallel.device_kernels.step_kernels import AttentionRows, Workspace
from tests.support.gpu_check import Figures
from tests.support.gpu_decode import ModelShape, build, decode_rows, measured_shape


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


def attention_of_batches() -> Figures:
    """Compare attention at several batches."""
    figures: dict[str, float | str] = {}
    for batch in (1, 16, 64):
        found = attention(DecodeAttention(batch=batch))
        figures |= {f"batch {batch}, {name}": value for name, value in found.items()}
    return figures


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


def kernels_run(work: Callable[[], object]) -> int:
    """Return how many kernels some work launches, as the device's profiler counts them."""
    work()  # compiles
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        work()
        torch.cuda.synchronize()
    return sum(
        event.count  # copies and fills of memory are no kernels
        for event in profiler.key_averages()
        if event.device_type.name == "CUDA" and not event.key.startswith("Mem")
    )


def launches(
    shape: ModelShape,
    *,
    batches: Sequence[int] = (1, 16, 64),
    context: int = 1024,
    device: str = "cuda",
    count: Callable[[Callable[[], object]], int] = kernels_run,
) -> Figures:
    """Count the kernels of a whole step, from its plan to its tokens, at several batches.

    Raises:
        AssertionError: there are more than ten a layer and twenty beside.
    """
    model = build(shape, max_batch=max(batches), context=context, device=device)
    counts: dict[int, int] = {}
    with torch.inference_mode():
        for batch in batches:
            rows = decode_rows(batch, context)
            counts[batch] = count(partial(model.decoder.score, rows, model.cache))
    most = 10 * shape.layers + 20
    if max(counts.values()) > most:
        raise AssertionError(f"a step launches {counts} kernels at these batches, {most} at most")
    return {f"batch {batch}, kernels": found for batch, found in counts.items()}
