"""Measure the parts of a layer-parallel drafter on its group, on all ranks at once."""

import time
from collections.abc import Callable
from statistics import median
from typing import Protocol

import torch

from parallel.batch import SequenceRows
from parallel.decoding.layer_width import StackTimes
from parallel.group import Group
from parallel.model.cache import PagedCache
from parallel.model.stack import LayerParallelStack
from parallel.model.transformer import Decoder

_MAX_WIDTH = 8
_CONTEXT = 64
_REPEATS = 7


class _Measured(Protocol):
    def stack_times(self, group: Group) -> StackTimes: ...

    @property
    def num_layers(self) -> int: ...

    @property
    def layer_parallel_from(self) -> int: ...


def predict_steps(shard: _Measured, group: Group) -> tuple[float, ...]:
    """Return the predicted seconds of a draft step with widths 1, 2, ...; call on all ranks."""
    times = shard.stack_times(group)
    widths = range(1, min(_MAX_WIDTH, shard.num_layers) + 1)
    first = shard.layer_parallel_from
    return tuple(
        times.step_s(w, num_layers=shard.num_layers, size=group.size, first=first) for w in widths
    )


def measure_stack(decoder: Decoder, cache: PagedCache, group: Group) -> StackTimes:
    """Return the times of the parts of a forward over one token; call on all ranks.

    All ranks make the same calls in the same order, and the times are the slowest rank's.
    """
    stack = decoder.stack
    assert isinstance(stack, LayerParallelStack)
    slot, size = 0, min(_CONTEXT, cache.capacity - 1)
    cache.hold(slot, range(cache.num_pages))
    context = SequenceRows(slot=slot, start=0, token_ids=(0,) * size, num_logits=0)
    row = SequenceRows(slot=slot, start=size, token_ids=(0,), num_logits=1)
    with torch.inference_mode():
        decoder.forward([context], cache)
        inputs = decoder.prepare([row], cache)
        x_RE, step = decoder.embed(inputs), inputs.step
        attention_s = slowest_median_s(lambda: stack.attend(x_RE, step), group)
        delta = x_RE[: step.num_tokens].clone()
        gather_s = slowest_median_s(lambda: group.all_gather(delta), group)
        mlp_s = slowest_median_s(lambda: stack.feed(x_RE, step), group)

        def ends() -> None:
            again = decoder.prepare([row], cache)
            decoder.finish(decoder.embed(again), again)

        head_s = slowest_median_s(ends, group)
    cache.free(slot)
    return StackTimes(attention_s=attention_s, gather_s=gather_s, mlp_s=mlp_s, head_s=head_s)


def slowest_median_s(part: Callable[[], object], group: Group) -> float:
    """Return a part's median time on the slowest rank."""
    times = []
    for _ in range(_REPEATS):
        start_s = time.perf_counter()
        part()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start_s)
    return float(group.all_gather(torch.tensor([median(times)])).max())
