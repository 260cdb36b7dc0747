"""Run the real state machine in virtual time on drafts that are right with probability alpha.

It closes the chain of evidence: the formulas of `cost.py` against this, this against the system.
"""

from collections.abc import Callable
from dataclasses import dataclass

from parallel.decoding.machine import (
    AwaitDraft,
    BeginRound,
    Command,
    Commit,
    DraftArrived,
    Event,
    RequestDraft,
    Score,
    State,
    Verified,
    Verify,
    start,
    step,
)
from parallel.decoding.rng import Purpose, uniforms
from parallel.decoding.types import DecodeMode, DraftTree, RngKey, Verdict

_TOKEN = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulated:
    """What a simulated run came to."""

    num_rounds: int
    num_tokens: int
    elapsed_s: float
    """Virtual seconds."""

    @property
    def tokens_per_s(self) -> float:
        """Committed tokens per virtual second."""
        return self.num_tokens / self.elapsed_s


def simulate(
    mode: DecodeMode,
    *,
    alpha: float,
    draft_length: int,
    target_s: Callable[[int], float],
    draft_s: Callable[[int], float],
    num_rounds: int,
    seed: int = 0,
) -> Simulated:
    """Run `num_rounds` rounds of one sequence.

    Args:
        mode: how drafting and verification are arranged.
        alpha: probability that a draft token is accepted, independently of all others.
        draft_length: draft tokens asked for each round.
        target_s: seconds of a target forward that scores so many positions.
        draft_s: seconds of drafting so many tokens.
        num_rounds: rounds to run; the error of `tokens_per_s` falls with its square root.
        seed: of the acceptances.
    """
    run = _Run(
        start(request=0, mode=mode, num_committed=1, last_token=_TOKEN),
        alpha=alpha,
        target_s=target_s,
        draft_s=draft_s,
        key=RngKey(seed=seed, request=0),
    )
    elapsed_s = sum(run.round(draft_length) for _ in range(num_rounds))
    return Simulated(
        num_rounds=num_rounds, num_tokens=run.state.num_committed - 1, elapsed_s=elapsed_s
    )


class _Run:
    """One sequence with its virtual devices: the target's clock and the drafter's."""

    def __init__(
        self,
        state: State,
        *,
        alpha: float,
        target_s: Callable[[int], float],
        draft_s: Callable[[int], float],
        key: RngKey,
    ) -> None:
        self.state = state
        self._alpha = alpha
        self._target_s = target_s
        self._draft_s = draft_s
        self._key = key

    def round(self, draft_length: int) -> float:
        """Make one round and return its seconds."""
        target_done_s = draft_done_s = 0.0
        commands = list(self._take(BeginRound(draft_length=draft_length)))
        while commands:
            match command := commands.pop(0):
                case RequestDraft():
                    draft_done_s = self._draft_s(command.draft_length)
                case AwaitDraft():
                    # A score commanded from here on starts when the draft is there.
                    commands += self._take(self._drafted(draft_length))
                    if target_done_s == 0:
                        target_done_s = draft_done_s
                case Score():
                    target_done_s += self._target_s(command.num_logits)
                case Verify():
                    commands += self._take(Verified(verdict=self._verdict(command)))
                case Commit():
                    pass
        return max(target_done_s, draft_done_s)

    def _take(self, event: Event) -> tuple[Command, ...]:
        self.state, commands = step(self.state, event)
        return commands

    def _drafted(self, draft_length: int) -> Event:
        draft = DraftTree.chain((_TOKEN,) * draft_length)
        return DraftArrived(epoch=self.state.epoch, base=self.state.base, draft=draft)

    def _verdict(self, verify: Verify) -> Verdict:
        num_drafts = len(verify.draft)
        position = self.state.num_committed
        numbers = uniforms(self._key, position, Purpose.ACCEPT, num_drafts)
        rejected = (numbers >= self._alpha).nonzero()[0]
        num_accepted = int(rejected[0]) if len(rejected) else num_drafts
        emits = num_accepted < verify.num_rows
        return Verdict(num_accepted=num_accepted, next_token=_TOKEN if emits else None)
