"""The layers of a virtual drafter: timed waits for computation, real exchanges between ranks."""

import time
from dataclasses import dataclass

import torch

from parallel.decoding.layer_groups import layer_groups
from parallel.decoding.layer_width import StackTimes
from parallel.group import Group
from runtime.rank.stack_times import slowest_median_s

_AWAKE_S = 0.0002
_HIDDEN = 64
"""Floats exchanged for each token: enough to exercise the links, too few to fill them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtualStack:
    """The times of a layer-parallel drafter's parts (`parallel/model/stack.py`), in seconds."""

    num_layers: int
    attention_s: float
    """Time of one layer's attention on its rank."""
    mlp_s: float
    """Time of one layer's feed-forward block, split over the ranks."""
    exchange_s: float = 0.0
    """Time of each gather in addition to the real exchange."""
    drop: float = 0.0
    """Share of the acceptance that each further layer at a time costs."""

    def run(self, width: int, num_tokens: int, group: Group, *, first: int = 0) -> None:
        """Run the waits and exchanges of one forward; layers before `first` run one at a time."""
        for layers in layer_groups(self.num_layers, width, first):
            self._attend(sum(layer % group.size == group.rank for layer in layers))
            self._gather(-(-len(layers) // group.size), num_tokens, group)
            for _ in layers:
                self._feed(num_tokens, group)

    def times(self, group: Group) -> StackTimes:
        """Return the measured times of the parts; call on all ranks."""
        return StackTimes(
            attention_s=slowest_median_s(lambda: self._attend(1), group),
            gather_s=slowest_median_s(lambda: self._gather(1, 1, group), group),
            mlp_s=slowest_median_s(lambda: self._feed(1, group), group),
            head_s=0.0,
        )

    def _attend(self, num_blocks: int) -> None:
        _wait(self.attention_s * num_blocks)

    def _gather(self, num_blocks: int, num_tokens: int, group: Group) -> None:
        group.all_gather(torch.zeros(num_blocks, num_tokens, _HIDDEN))
        _wait(self.exchange_s)

    def _feed(self, num_tokens: int, group: Group) -> None:
        _wait(self.mlp_s)
        group.all_reduce(torch.zeros(num_tokens, _HIDDEN))


def _wait(seconds: float) -> None:
    wait_until(time.perf_counter() + seconds)


def wait_until(deadline_s: float) -> None:
    """Sleep, then yield repeatedly until the deadline, as a host thread waits for its device.

    A sleep alone ends 0.1 ms late or more; a loop that never yields would hold the interpreter's
    lock and delay the links that are being measured.
    """
    left_s = deadline_s - _AWAKE_S - time.perf_counter()
    if left_s > 0:
        time.sleep(left_s)
    while time.perf_counter() < deadline_s:
        time.sleep(0)
