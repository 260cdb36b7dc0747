"""Virtual devices: a forward is a timed wait, and tokens come from a seeded process.

They use the same actors, groups and links as a real model, so the overlap of drafting and
verification can be measured on machines with fewer cores than workers. Which draft tokens the
target accepts comes from `parallel/simulation/virtual_acceptance.py`.
"""

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from parallel.batch import SequenceRows
from parallel.decoding.layer_width import StackTimes
from parallel.group import Group
from parallel.model.backend import ForwardOutputs
from parallel.model.sharding import even_range
from parallel.simulation.virtual_acceptance import Chance
from runtime.errors import ConfigError
from runtime.rank.shard import HeadColumns
from runtime.rank.virtual_stack import VirtualStack, wait_until

_PEAK_LOGIT = 200.0  # leaves exp(-200) of probability to other tokens, at every temperature
_NEXT_PEAK = 10.0  # less for each further guess
_NUM_GUESSES = 20  # with a logit above that of all other tokens
_BACK_TO_BACK_S = 0.001
EXCHANGED_FLOATS = 64
"""The size of an exchange of the target: enough to exercise its links, too few to fill them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtualSpec:
    """The times and the acceptance of a virtual target and its drafter."""

    target_s: float
    """Seconds of one target forward."""
    draft_s: float
    """Seconds of one draft step."""
    alpha: float
    """Probability that a draft token equals the target's."""
    beta: float = 0.0
    """Probability that the drafter's next guess is right where those before were wrong."""
    branch_s: float = 0.0
    """Extra seconds of a draft step for each further branch, in drafts for many outcomes."""
    position_s: float = 0.0
    """Extra seconds of a target forward for each scored position after the first."""
    vocab_size: int = 1024
    seed: int = 0
    stack: VirtualStack | None = None
    """The layers of a layer-parallel drafter; `draft_s` is then ignored."""
    exchanges: int = 0
    """The number of all-reduces of the target's ranks in a forward, evenly spread over its time."""

    @property
    def chance(self) -> Chance:
        """Which draft tokens the target accepts."""
        drop = self.stack.drop if self.stack is not None else 0.0
        return Chance(alpha=self.alpha, drop=drop, beta=self.beta, seed=self.seed)

    @classmethod
    def parse(cls, text: str) -> "VirtualSpec":
        """Read `target=40ms,draft=8ms,alpha=0.8`.

        Optional parts: `beta=0,branch=0ms,position=1ms,exchanges=0,vocab=1024,seed=0`. A
        layer-parallel drafter has `layers=32,attention=2ms,mlp=1ms[,exchange=0.2ms][,drop=0.02]`
        instead of `draft`.

        Raises:
            ConfigError: a part is missing, unknown or out of range.
        """
        parts = dict(part.partition("=")[::2] for part in text.split(","))
        by_layers = "layers" in parts
        drafter = {"layers", "attention", "mlp"} if by_layers else {"draft"}
        optional = {"exchange", "drop"} if by_layers else set()
        missing = {"target", "alpha"} | drafter
        optional |= {"beta", "branch", "position", "exchanges", "vocab", "seed"}
        unknown = set(parts) - missing - optional
        missing -= set(parts)
        if unknown or missing:
            raise ConfigError(
                f"`virtual` is {text!r}: {'unknown ' + str(sorted(unknown)) if unknown else ''}"
                f"{'missing ' + str(sorted(missing)) if missing else ''}; "
                "write target=40ms,draft=8ms,alpha=0.8[,beta=0][,branch=0ms][,position=1ms]"
                "[,exchanges=0][,vocab=1024][,seed=0], or "
                "layers=32,attention=2ms,mlp=1ms[,exchange=0.2ms][,drop=0.02] instead of draft"
            )
        try:
            alpha, beta = float(parts["alpha"]), float(parts.get("beta", "0"))
            vocab_size, seed = int(parts.get("vocab", "1024")), int(parts.get("seed", "0"))
            exchanges = int(parts.get("exchanges", "0"))
        except ValueError as error:
            raise ConfigError(f"`virtual` is {text!r}: {error}") from error
        shares_fit = 0 <= alpha <= 1 and 0 <= beta <= 1
        if not shares_fit or vocab_size < 2 or seed < 0 or exchanges < 0:
            raise ConfigError(
                f"`virtual` is {text!r}: alpha and beta must be in [0, 1], vocab at least 2, seed "
                "and exchanges at least 0"
            )
        return cls(
            target_s=parse_duration(parts["target"]),
            draft_s=0.0 if by_layers else parse_duration(parts["draft"]),
            alpha=alpha,
            beta=beta,
            branch_s=parse_duration(parts.get("branch", "0ms")),
            position_s=parse_duration(parts.get("position", "0ms")),
            vocab_size=vocab_size,
            seed=seed,
            stack=_parse_stack(text, parts) if by_layers else None,
            exchanges=exchanges,
        )


def _parse_stack(text: str, parts: Mapping[str, str]) -> VirtualStack:
    try:
        num_layers, drop = int(parts["layers"]), float(parts.get("drop", "0"))
    except ValueError as error:
        raise ConfigError(f"`virtual` is {text!r}: {error}") from error
    if num_layers < 1 or not 0 <= drop < 1:
        raise ConfigError(f"`virtual` is {text!r}: layers must be at least 1, drop in [0, 1)")
    return VirtualStack(
        num_layers=num_layers,
        attention_s=parse_duration(parts["attention"]),
        mlp_s=parse_duration(parts["mlp"]),
        exchange_s=parse_duration(parts.get("exchange", "0ms")),
        drop=drop,
    )


def parse_duration(text: str) -> float:
    """Return the seconds in `40ms`, `0.5s` or `800us`.

    Raises:
        ConfigError: the text is not a duration.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(us|ms|s)", text.strip())
    if match is None:
        raise ConfigError(f"{text!r} is not a duration: write a number and a unit, as 40ms or 0.5s")
    return float(match[1]) * {"us": 1e-6, "ms": 1e-3, "s": 1.0}[match[2]]


class VirtualShard:
    """A model shard whose forward waits and whose logits point at the seeded process's token."""

    def __init__(
        self, spec: VirtualSpec, *, drafter: bool, group: Group, layer_parallel_from: int = 0
    ) -> None:
        size, rank = group.size, group.rank
        self.layer_parallel_from = layer_parallel_from
        self._spec = spec
        self._group = group
        self._stack = spec.stack if drafter else None
        self._drafter = drafter
        self._chance = spec.chance
        self.vocab_size = spec.vocab_size
        self.max_positions = 0
        self._vocab_start, self._vocab_stop = even_range(spec.vocab_size, size, rank)
        self.head = HeadColumns(spec.vocab_size, self._vocab_start)
        self._first_token: dict[int, int] = {}
        self._end_s = 0.0

    def hold(self, slot: int, pages: Sequence[int], length: int) -> None:  # noqa: ARG002
        """Start a sequence; it needs no memory."""
        self._first_token.setdefault(slot, -1)

    def free(self, slot: int) -> None:
        """Remove a sequence."""
        del self._first_token[slot]

    def forward(self, rows: Sequence[SequenceRows], width: int) -> ForwardOutputs:
        """Wait for the time of a forward and return peaked logits."""
        start_s = self._start_s(grows_branches=any(row.parents for row in rows))
        num_logits = sum(row.num_logits for row in rows)
        logits_NV = torch.zeros(num_logits, self._vocab_stop - self._vocab_start)
        index = 0
        for row in rows:
            if row.start == 0:
                self._first_token[row.slot] = row.token_ids[0]
            for position in row.positions[len(row.token_ids) - row.num_logits :]:
                ranks = self._ranked(self._first_token[row.slot], position + 1, width)
                for rank, token in enumerate(ranks):
                    if self._vocab_start <= token < self._vocab_stop:
                        peak = _PEAK_LOGIT - rank * _NEXT_PEAK
                        logits_NV[index, token - self._vocab_start] = peak
                index += 1
        if self._stack is not None:
            num_tokens = sum(len(row.token_ids) for row in rows)
            self._stack.run(width, num_tokens, self._group, first=self.layer_parallel_from)
            return ForwardOutputs(logits_NV)
        num_branches = sum(row.num_logits for row in rows if row.parents)
        self._end_s = start_s + self._duration_s(num_logits, num_branches)
        self._exchange(start_s, self._end_s - start_s)
        wait_until(self._end_s)
        return ForwardOutputs(logits_NV)

    def _exchange(self, start_s: float, duration_s: float) -> None:
        """Exchange with the target's other ranks as layers do; the time it takes is added."""
        num = 0 if self._drafter or self._group.size == 1 else self._spec.exchanges
        for index in range(num):
            wait_until(start_s + duration_s * (index + 1) / num)
            before_s = time.perf_counter()
            self._group.all_reduce(torch.zeros(EXCHANGED_FLOATS))
            spent_s = time.perf_counter() - before_s
            start_s += spent_s
            self._end_s += spent_s

    def stack_times(self, group: Group) -> StackTimes:
        """Return the measured times of a layer-parallel drafter's parts."""
        assert self._stack is not None
        return self._stack.times(group)

    @property
    def num_layers(self) -> int:
        """The number of layers of a layer-parallel drafter."""
        assert self._stack is not None
        return self._stack.num_layers

    def _start_s(self, *, grows_branches: bool) -> float:
        """Return when this forward starts: within a draft, at the end of the previous step.

        `draft` is the time of a whole step, so it includes the host's work between two steps, which
        is more where drafts for many outcomes grow.
        """
        now_s = time.perf_counter()
        between_s = self._spec.draft_s if grows_branches else _BACK_TO_BACK_S
        back_to_back = self._drafter and now_s - self._end_s < between_s
        return self._end_s if back_to_back else now_s

    def _duration_s(self, num_logits: int, num_branches: int) -> float:
        if self._drafter:
            return self._spec.draft_s + max(num_branches - 1, 0) * self._spec.branch_s
        return self._spec.target_s + max(num_logits - 1, 0) * self._spec.position_s

    def _ranked(self, first_token: int, position: int, width: int) -> list[int]:
        """Return the tokens with peaked logits, the best first; only a drafter has several."""
        token, size = self._chance.token(first_token, position, self.vocab_size), self.vocab_size
        if not self._drafter:
            return [token]
        others = [(token + 1 + rank) % size for rank in range(min(_NUM_GUESSES, size - 1))]
        if self._chance.is_right(first_token, position, width):
            return [token, *others] if self._spec.beta else [token]
        own, *guesses = others
        if not self._spec.beta:
            return [own]
        rank = self._chance.num_wrong_guesses(first_token, position, len(guesses))
        guesses.insert(rank, token)
        return [own, *guesses[: _NUM_GUESSES - 1]]
