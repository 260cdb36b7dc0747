"""Virtual devices: a forward is a timed wait, tokens come from a seeded process.

They run through the same actors, groups and links as a real model, so the overlap of drafting and
verification can be measured on machines with fewer cores than workers. A draft token equals
the target's with probability `alpha`, independently for each position: the i.i.d. model of the cost
formulas of PEARL and of speculative decoding.
"""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from parallel.decoding.rng import Purpose, uniform
from parallel.decoding.types import RngKey
from parallel.model.batch import SequenceRows
from parallel.model.sharding import even_range
from runtime.errors import ConfigError
from runtime.shard import HeadColumns

_PEAK_LOGIT = 50.0  # exp(-50) of mass elsewhere: sampling follows the process at every temperature
_BACK_TO_BACK_S = 0.001
_AWAKE_S = 0.0002


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtualSpec:
    """Times and acceptance of a virtual target and its drafter."""

    target_s: float
    """Seconds of one target forward."""
    draft_s: float
    """Seconds of one draft step."""
    alpha: float
    """Probability that a draft token equals the target's."""
    position_s: float = 0.0
    """Extra seconds of a target forward for each scored position after the first."""
    vocab_size: int = 1024
    seed: int = 0

    @classmethod
    def parse(cls, text: str) -> "VirtualSpec":
        """Read `target=40ms,draft=8ms,alpha=0.8[,position=1ms][,vocab=1024][,seed=0]`.

        Raises:
            ConfigError: a part is missing, unknown or out of range.
        """
        parts = dict(part.partition("=")[::2] for part in text.split(","))
        unknown = set(parts) - {"target", "draft", "alpha", "position", "vocab", "seed"}
        missing = {"target", "draft", "alpha"} - set(parts)
        if unknown or missing:
            raise ConfigError(
                f"--virtual {text!r}: {'unknown ' + str(sorted(unknown)) if unknown else ''}"
                f"{'missing ' + str(sorted(missing)) if missing else ''}; "
                "write target=40ms,draft=8ms,alpha=0.8[,position=1ms][,vocab=1024][,seed=0]"
            )
        try:
            alpha = float(parts["alpha"])
            vocab_size, seed = int(parts.get("vocab", "1024")), int(parts.get("seed", "0"))
        except ValueError as error:
            raise ConfigError(f"--virtual {text!r}: {error}") from error
        if not 0 <= alpha <= 1 or vocab_size < 2 or seed < 0:
            raise ConfigError(f"--virtual {text!r}: alpha must be in [0, 1], vocab >= 2, seed >= 0")
        return cls(
            target_s=parse_duration(parts["target"]),
            draft_s=parse_duration(parts["draft"]),
            alpha=alpha,
            position_s=parse_duration(parts.get("position", "0ms")),
            vocab_size=vocab_size,
            seed=seed,
        )


def parse_duration(text: str) -> float:
    """Return the seconds in `40ms`, `0.5s` or `800us`.

    Raises:
        ConfigError: the text is no duration.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(us|ms|s)", text.strip())
    if match is None:
        raise ConfigError(f"{text!r} is no duration: write a number and a unit, as 40ms or 0.5s")
    return float(match[1]) * {"us": 1e-6, "ms": 1e-3, "s": 1.0}[match[2]]


class VirtualShard:
    """A model shard whose forward waits and whose logits point at the seeded process's token."""

    def __init__(self, spec: VirtualSpec, *, drafter: bool, size: int, rank: int) -> None:
        self._spec = spec
        self._drafter = drafter
        self.vocab_size = spec.vocab_size
        self._vocab_start, self._vocab_stop = even_range(spec.vocab_size, size, rank)
        self.head = HeadColumns(spec.vocab_size, self._vocab_start)
        self._first_token: dict[int, int] = {}
        self._end_s = 0.0

    def open(self, slot: int, capacity: int) -> None:  # noqa: ARG002  (a wait needs no memory)
        """Start a sequence."""
        self._first_token[slot] = -1

    def free(self, slot: int) -> None:
        """Forget a sequence."""
        del self._first_token[slot]

    def forward(self, rows: Sequence[SequenceRows]) -> Tensor:
        """Wait as long as the device would and return peaked logits."""
        start_s = self._start_s()
        num_logits = sum(row.num_logits for row in rows)
        logits_NV = torch.zeros(num_logits, self._vocab_stop - self._vocab_start)
        index = 0
        for row in rows:
            if row.start == 0:
                self._first_token[row.slot] = row.token_ids[0]
            for place in row.positions[len(row.token_ids) - row.num_logits :]:
                token = self._token(self._first_token[row.slot], place + 1)
                if self._vocab_start <= token < self._vocab_stop:
                    logits_NV[index, token - self._vocab_start] = _PEAK_LOGIT
                index += 1
        self._end_s = start_s + self._duration_s(num_logits)
        _wait_until(self._end_s)
        return logits_NV

    def _start_s(self) -> float:
        """Return when this forward starts: in a draft, at the end of the step before.

        `draft` is the time of a whole step, so what the host does between two steps is part of it.
        """
        now_s = time.perf_counter()
        back_to_back = self._drafter and now_s - self._end_s < _BACK_TO_BACK_S
        return self._end_s if back_to_back else now_s

    def _duration_s(self, num_logits: int) -> float:
        if self._drafter:
            return self._spec.draft_s
        return self._spec.target_s + max(num_logits - 1, 0) * self._spec.position_s

    def _token(self, first_token: int, position: int) -> int:
        key = RngKey(seed=self._spec.seed, request=first_token)
        token = int(uniform(key, position, Purpose.SAMPLE) * self.vocab_size)
        if self._drafter and uniform(key, position, Purpose.ACCEPT) >= self._spec.alpha:
            return (token + 1) % self.vocab_size
        return token


def _wait_until(deadline_s: float) -> None:
    """Sleep, then yield over and over for the last stretch, as a host thread awaits its device.

    A sleep alone ends late by 0.1 ms and more; a loop that never yields would hold the
    interpreter's lock and delay the very links that are being measured.
    """
    left_s = deadline_s - _AWAKE_S - time.perf_counter()
    if left_s > 0:
        time.sleep(left_s)
    while time.perf_counter() < deadline_s:
        time.sleep(0)
