"""Drafters without a request of their own share the outcomes of another one's verdict.

The outcomes, likeliest first, are dealt in turn to the drafter that has the request and to those
that share it; all read the same tokens and rank alike. One that is lost, late or wrong costs hits
alone: the block that the round tests comes from the drafter that has the request.
"""

from collections import Counter
from collections.abc import Sequence as Items
from dataclasses import dataclass, field

from parallel.decoding.modes.mode_registry import policy_of
from parallel.decoding.round_state import DraftArrived
from parallel.decoding.types import DraftTree
from parallel.decoding.verdict_outcomes import VerdictOutcome
from runtime.engine.draft_fence import CheckedDraft
from runtime.engine.drafter_port import DrafterPort
from runtime.engine.round_work import EngineWork
from runtime.engine.sequence import DecodingSequence, DrafterView

_MOST_OPEN = 2
"""Requests that a drafter may have to answer and is still asked for its share: one ends when the
next one arrives."""


@dataclass(slots=True)
class OutcomeShare:
    """One drafter's share in the outcomes of a request."""

    port: DrafterPort
    sequence: DecodingSequence
    view: DrafterView = field(default_factory=DrafterView)
    """What the drafter holds of the request."""
    is_known: bool = False
    """Whether the drafter has been introduced to it."""
    outcomes: set[VerdictOutcome] = field(default_factory=set)
    """Those that it drafts for in this round, as far as parts have arrived."""

    @property
    def can_be_asked(self) -> bool:
        """Whether its drafter is not far behind, and has room for the request."""
        room = self.port.num_left(self.sequence.state.base, self.sequence.highest_id)
        return self.port.num_open < _MOST_OPEN and room != 0

    def deliver(self, work: EngineWork, found: CheckedDraft) -> None:
        """Deliver drafts for outcomes alone: the block comes from the request's own drafter."""
        if found.unknown:
            self.forget()
        self.outcomes.update(part.outcome for part in found.outcomes)
        work.apply(
            DraftArrived(
                epoch=found.epoch,
                base=found.base,
                draft=DraftTree(),
                partial=True,
                outcomes=found.outcomes,
            )
        )

    def forget(self) -> None:
        """Forget what the drafter holds: the next time it is sent the request whole."""
        if self.is_known:
            self.port.closed.append(self.sequence.number)
        self.is_known = False
        self.view.forget()


class OutcomeShares:
    """Which drafters share which requests' outcomes."""

    def __init__(self) -> None:
        self._by_drafter: dict[int, OutcomeShare] = {}

    def deal(
        self,
        sequences: Items[DecodingSequence],
        reading: Items[DecodingSequence],
        ports: Items[DrafterPort],
    ) -> None:
        """Give every drafter without a request a share in one; those that have a share keep it.

        Args:
            sequences: the requests that are decoded in this round.
            reading: further ones whose drafters read along.
            ports: the drafters that are attached.
        """
        shared = [sequence for sequence in sequences if _can_be_shared(sequence)]
        taken = {sequence.drafter for sequence in (*sequences, *reading)}
        free = [port for port in ports if port.number not in taken]
        for share in list(self._by_drafter.values()):
            if share.port not in free or share.sequence not in shared:
                self._end(share)
        loads = Counter({sequence.number: 0 for sequence in shared})
        loads.update(share.sequence.number for share in self._by_drafter.values())
        for port in free:
            if shared and port.number not in self._by_drafter:
                sequence = min(shared, key=lambda each: loads[each.number])
                loads[sequence.number] += 1
                self._by_drafter[port.number] = OutcomeShare(port, sequence)

    def of_drafter(self, number: int) -> OutcomeShare | None:
        """Return a drafter's share."""
        return self._by_drafter.get(number)

    def of_sequence(self, sequence: DecodingSequence) -> list[OutcomeShare]:
        """Return the shares in a request's outcomes."""
        return [share for share in self._by_drafter.values() if share.sequence is sequence]

    def release(self, sequence: DecodingSequence) -> None:
        """Have the drafters that share a request forget it."""
        for share in self.of_sequence(sequence):
            share.forget()
            del self._by_drafter[share.port.number]

    def _end(self, share: OutcomeShare) -> None:
        """End a share; a drafter that is given the request itself continues where it is."""
        del self._by_drafter[share.port.number]
        sequence = share.sequence
        if share.is_known and sequence.drafter == share.port.number:
            sequence.view, sequence.known_to_drafter = share.view, True
        else:
            share.forget()


def _can_be_shared(sequence: DecodingSequence) -> bool:
    # Drafts that need probabilities are made for one outcome.
    return policy_of(sequence.mode).prepares_outcomes and not sequence.needs_draft_probs
