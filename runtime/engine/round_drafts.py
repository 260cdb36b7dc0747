"""A round's drafts: which drafters are asked, and which answers arrive in time."""

from collections.abc import Mapping
from collections.abc import Sequence as Items
from dataclasses import dataclass, replace
from itertools import count

from parallel.decoding.modes.mode_registry import policy_of
from parallel.decoding.round_state import DraftArrived
from parallel.decoding.verdict_outcomes import VerdictOutcome
from parallel.messages import (
    DraftItem,
    DraftOpen,
    DraftRequest,
)
from parallel.rounds.round_loop import RoundLoop
from runtime.clock import Clock
from runtime.engine.draft_fence import CheckedDraft, CheckedProposal
from runtime.engine.drafter_port import DrafterPort
from runtime.engine.drafter_ports import DrafterPorts
from runtime.engine.outcome_shares import OutcomeShare, OutcomeShares
from runtime.engine.round_log import RoundLog
from runtime.engine.round_work import EngineWork
from runtime.engine.sequence import DecodingSequence
from runtime.timeline import SpanKind

_SLACK_S = 0.001
"""How much later than expected a part may come that is waited for."""


@dataclass(slots=True)
class DraftTime:
    """What one drafter spent on a round."""

    seconds: float = 0.0
    steps: int = 0


class RoundDrafts:
    """The leader's dealings with its drafters, round by round."""

    def __init__(
        self,
        ports: DrafterPorts,
        loop: RoundLoop[EngineWork],
        clock: Clock,
        log: RoundLog,
    ) -> None:
        self._log = log
        self._ports = ports
        self._loop = loop
        self._clock = clock
        self._rounds = count(1)
        self._shares = OutcomeShares()
        self._sharing: dict[int, list[OutcomeShare]] = {}
        """By request: the drafters that are asked for outcomes beside its own, in this round."""
        self._ready: set[int] = set()
        """Drafters that can be asked in this round."""
        self._times: dict[int, DraftTime] = {}
        self.num_missed = 0
        """Drafts that did not arrive in time, in this round."""
        self.waited_s = 0.0
        """Seconds that the target waited for drafts, in this round."""
        self._asking_s: dict[int, float] = {}
        """By drafter: seconds of requests whose answers have not been received yet."""

    @property
    def longest(self) -> DraftTime:
        """What the drafter that took longest spent on this round: they work side by side."""
        return max(self._times.values(), key=lambda time: time.seconds, default=DraftTime())

    def settle(self) -> None:
        """Send releases that no round has carried, and receive unrequested answers (when idle)."""
        for port in self._ports.attached:
            port.drain()
            if port.closed and port.ready:
                port.ask(DraftRequest(round=next(self._rounds), closed=_take_closed(port)))

    def begin(self, sequences: Items[DecodingSequence]) -> None:
        """Begin a round: give every sequence a drafter, and see which of them can be asked."""
        self._ports.share_out(sequences)
        self._times.clear()
        self.num_missed, self.waited_s = 0, 0.0
        self._ready = {port.number for port in self._ports.attached if port.ready}

    def limit(self, sequence: DecodingSequence) -> int | None:
        """Return how many tokens a sequence's drafter can draft now; None is any number."""
        lacks_base = sequence.state.num_pending > 0 and not sequence.known_to_drafter
        if sequence.drafter not in self._ready or lacks_base:
            return 0
        port = self._ports.of(sequence)
        return None if port is None else port.num_left(sequence.state.base, sequence.highest_id)

    def are_trees(self, sequence: DecodingSequence) -> bool:
        """Return whether trees are requested: where drafts are compared, without probabilities."""
        port = self._ports.of(sequence)
        grows_trees = port is not None and port.grows_trees
        takes_trees = policy_of(sequence.mode).takes_trees
        return grows_trees and takes_trees and not sequence.needs_draft_probs

    def num_successors(self, sequence: DecodingSequence) -> int:
        """Return how many best tokens a request's drafter receives for each position."""
        port = self._ports.of(sequence)
        return port.num_successors if port is not None else 0

    def ask(self, works: Items[EngineWork], syncing: Items[DecodingSequence]) -> None:
        """Send each drafter that can be asked its part of the round."""
        self._shares.deal([work.sequence for work in works], syncing, self._ports.attached)
        self._sharing = {
            work.sequence.number: [
                share
                for share in self._shares.of_sequence(work.sequence)
                if share.port.number in self._ready and share.can_be_asked
            ]
            for work in works
            if work.request is not None and _prepares_outcomes(work)
        }
        for port in self._ports.attached:
            if port.number not in self._ready:
                continue
            own = [work for work in works if work.sequence.drafter == port.number]
            # A request for outcomes of its own: it ends when the next round's arrives.
            chains = [work for work in own if not _prepares_outcomes(work)]
            reading = [sequence for sequence in syncing if sequence.drafter == port.number]
            self._ask(port, chains, reading)
            if len(chains) < len(own):
                self._ask(port, [work for work in own if _prepares_outcomes(work)], ())
        for work in works:
            for part, share in enumerate(self._sharing.get(work.sequence.number, ()), start=1):
                self._ask_share(share, work, part)

    def take_answer(
        self, pending: Items[EngineWork], works: Mapping[int, EngineWork], deadline_s: float
    ) -> Items[EngineWork]:
        """Take the next answer of the drafter that the first pending work waits for.

        Answers to earlier rounds arrive here too: the state machines know what is still of use.

        Returns:
            The works that continue without a draft.
        """
        drafter = pending[0].sequence.drafter
        port = self._ports.of(pending[0].sequence)
        proposal = None
        if port is not None and port.due:
            proposal = port.receive(0.0) or self._wait(port, deadline_s)
            if proposal is None:
                port.miss()
        if port is not None and proposal is not None:
            self._take(port, proposal, works)
            return ()
        missed = [work for work in pending if work.sequence.drafter == drafter]
        for work in missed:
            work.sequence.counters.missed_drafts += 1
        self.num_missed += len(missed)
        return missed

    def take_arrived(self, works: Mapping[int, EngineWork]) -> None:
        """Take what has arrived from the drafters of these works, without waiting."""
        for port in self._ports.attached:
            while port.due and (proposal := port.receive(0.0)) is not None:
                self._take(port, proposal, works)

    def take_due(
        self,
        works: Mapping[int, EngineWork],
        growing: Mapping[int, VerdictOutcome],
        patience_s: float,
    ) -> bool:
        """Wait for the next part of an answer that holds drafts which may grow, if it is due."""
        now_s = self._clock.now_s()
        drafting = {self._drafter_of(works[number], growing[number]) for number in growing}
        due = [
            (due_s - now_s, port)
            for port in self._ports.attached
            if port.number in drafting and (due_s := port.next_part_s) is not None
        ]
        if not due:
            return False
        left_s, port = min(due, key=lambda pair: pair[0])
        if left_s > patience_s:
            return False
        proposal = self._wait(port, now_s + min(patience_s, max(left_s, 0.0) + _SLACK_S))
        if proposal is None:
            port.was_late()
            return False
        self._take(port, proposal, works)
        return True

    def _drafter_of(self, work: EngineWork, outcome: VerdictOutcome) -> int | None:
        """Return the drafter that drafts for an outcome in this round."""
        shares = self._sharing.get(work.sequence.number, [])
        found = (share.port.number for share in shares if outcome in share.outcomes)
        return next(found, work.sequence.drafter)

    def _ask(
        self, port: DrafterPort, works: Items[EngineWork], syncing: Items[DecodingSequence]
    ) -> None:
        opened: list[DraftOpen] = []
        items = [
            self._item(
                work.sequence, opened, work.request.draft_length, num_outcomes=work.num_outcomes
            )
            for work in works
            if work.request is not None
        ]
        items += [
            self._item(sequence, opened, 0)
            for sequence in syncing
            if not _synced(sequence)
            and port.num_left(len(sequence.token_ids), sequence.highest_id) != 0
        ]
        if not (items or port.closed) or self._send(port, opened, items):
            return
        for sequence in [*(work.sequence for work in works), *syncing]:
            self._forget(sequence)

    def _ask_share(self, share: OutcomeShare, work: EngineWork, part: int) -> None:
        """Ask a drafter for its share in the outcomes of another drafter's request."""
        assert work.request is not None
        sequence = work.sequence
        opened: list[DraftOpen] = []
        share.outcomes.clear()
        if not share.is_known:
            share.is_known = True
            opened.append(self._introduction(sequence, share.port))
        item = share.view.item(sequence.state, sequence.token_ids, work.request.draft_length)
        item = replace(
            item,
            num_outcomes=work.num_outcomes,
            outcome_part=part,
            num_outcome_parts=1 + len(self._sharing[sequence.number]),
        )
        if not self._send(share.port, opened, [item]):
            share.forget()

    def _send(self, port: DrafterPort, opened: Items[DraftOpen], items: Items[DraftItem]) -> bool:
        """Send a drafter a request; return False if it failed or is lost."""
        number = next(self._rounds)
        port.last_opening = number if opened else port.last_opening
        request = DraftRequest(
            round=number,
            opened=tuple(opened),
            items=tuple(items),
            closed=_take_closed(port),
            width=self._loop.width,
        )
        branches = [item.num_outcomes for item in items if item.num_outcomes]
        if branches:
            mean = sum(branches) // len(branches)
            self._loop.answer_times.ask(number, mean, reads_prompt=bool(opened))
        start_s = self._clock.now_s()
        self._log.asked(port.number, number, start_s)
        is_asked = port.ask(request)
        asking_s = self._clock.now_s() - start_s  # a drafter in this thread drafts now
        self._asking_s[port.number] = self._asking_s.get(port.number, 0.0) + asking_s
        if not is_asked:  # it may have stopped half way: next time it is sent everything
            port.closed += request.closed
        return is_asked

    def _item(
        self,
        sequence: DecodingSequence,
        opened: list[DraftOpen],
        num_draft: int,
        *,
        num_outcomes: int = 0,
    ) -> DraftItem:
        """Make the drafter's item for a sequence, introducing it first if need be."""
        if not sequence.known_to_drafter:
            sequence.known_to_drafter = True
            sequence.view.forget()
            opened.append(self._introduction(sequence, self._ports.of(sequence)))
        item = sequence.view.item(sequence.state, sequence.token_ids, num_draft)
        if item.num_outcomes and sequence.needs_draft_probs:
            # Drafts after other outcomes come without probabilities, and are accepted less often
            # than the block that they take the place of.
            item = replace(item, num_outcomes=1)
        elif item.num_outcomes:
            num_parts = 1 + len(self._sharing.get(sequence.number, ()))
            item = replace(item, num_outcomes=num_outcomes, num_outcome_parts=num_parts)
        if not self.are_trees(sequence):
            return item
        chosen = sequence.submit.draft_length is None
        width = self._loop.width or 1
        min_gain = self._loop.controller.min_gain(width=width) if chosen else 0.0
        return replace(item, tree=True, min_gain=min_gain)

    def _introduction(self, sequence: DecodingSequence, port: DrafterPort | None) -> DraftOpen:
        capacity = sequence.capacity
        if port is not None and port.max_positions is not None:
            capacity = min(capacity, port.max_positions)
        return DraftOpen(
            request=sequence.number,
            key=sequence.key,
            sampling=sequence.sampling,
            num_prompt=sequence.num_prompt,
            capacity=capacity,
            send_probs=sequence.needs_draft_probs,
            vocab_size=self._ports.vocab_size,
        )

    def _wait(self, port: DrafterPort, deadline_s: float) -> CheckedProposal | None:
        """Wait for a drafter while the target waits too, and count the time."""
        start_s = self._clock.now_s()
        left_s = deadline_s - start_s
        proposal = port.receive(left_s) if left_s > 0 else None
        now_s = self._clock.now_s()
        self.waited_s += now_s - start_s
        self._log.record(SpanKind.WAIT, start_s, now_s, 0)
        return proposal

    def _take(
        self, port: DrafterPort, proposal: CheckedProposal, works: Mapping[int, EngineWork]
    ) -> None:
        share = self._shares.of_drafter(port.number)
        if proposal.problems:  # the state of its cache is unknown now
            for work in works.values():
                if work.sequence.drafter == port.number:
                    self._forget(work.sequence)
            if share is not None:
                share.forget()
        self._loop.answer_times.arrive(
            proposal.round, proposal.num_steps, proposal.draft_s, is_last=proposal.is_answer
        )
        if proposal.is_answer:
            time = self._times.setdefault(port.number, DraftTime())
            time.seconds += proposal.draft_s
            time.steps += proposal.num_steps
            self._log.answered(port.number, proposal.round, proposal.draft_s)
            waited_s = min(self._asking_s.get(port.number, 0.0), proposal.draft_s)
            self._asking_s[port.number] = self._asking_s.get(port.number, 0.0) - waited_s
            self.waited_s += waited_s
            # Reading a prompt would spoil the estimate.
            if proposal.num_steps and proposal.round != port.last_opening:
                self._loop.observe_draft(proposal.num_steps, proposal.draft_s + port.lag_s)
        for draft in proposal.drafts:
            found = works.get(draft.request)
            if found is None:
                continue
            if found.sequence.drafter == port.number:
                self._deliver(found, draft, len(works), partial=proposal.partial)
            elif share is not None and share.sequence is found.sequence:
                share.deliver(found, draft)

    def _deliver(self, work: EngineWork, found: CheckedDraft, batch: int, *, partial: bool) -> None:
        sequence, draft = work.sequence, found.draft
        if found.unknown:
            self._forget(sequence)
        elif found.is_held:
            sequence.view.drafted(found.epoch, found.base, draft.token_ids)
        if found.gains and sequence.submit.draft_length is None and self.are_trees(sequence):
            num = self._loop.controller.worth(sequence.number, found.gains, batch=batch)
            draft = draft.first(num)
        work.apply(
            DraftArrived(
                epoch=found.epoch,
                base=found.base,
                draft=draft,
                partial=partial,
                outcomes=found.outcomes,
            )
        )

    def release(self, sequence: DecodingSequence) -> None:
        """Have all drafters of a request forget it."""
        self._ports.release(sequence)
        self._shares.release(sequence)

    def _forget(self, sequence: DecodingSequence) -> None:
        """Forget what a request's drafter holds: the next time it is sent the request whole."""
        self._ports.release(sequence)
        sequence.view.forget()


def _prepares_outcomes(work: EngineWork) -> bool:
    return policy_of(work.sequence.mode).prepares_outcomes


def _synced(sequence: DecodingSequence) -> bool:
    return len(sequence.view.token_ids) >= sequence.num_prompt


def _take_closed(port: DrafterPort) -> tuple[int, ...]:
    taken, port.closed = tuple(port.closed), []
    return taken
