"""One round of the leader: ask for drafts, score, verify, for many sequences in one forward.

What a sequence does is decided by its state machine (`parallel/decoding/machine.py`); this module
carries the machine's commands out. In PEARL mode the drafter works while the target's forward runs
(PEARL, arXiv 2408.11850, Algorithm 2); in draft-then-verify mode the forward waits for the drafts.
"""

from collections.abc import Sequence as Items
from dataclasses import dataclass, field, replace
from itertools import count

from parallel.decoding.controller import MAX_NODES, DraftLengthController
from parallel.decoding.logprobs import token_logprobs
from parallel.decoding.machine import (
    AwaitDraft,
    BeginRound,
    Commit,
    DraftArrived,
    DraftMissed,
    Event,
    Phase,
    RequestDraft,
    Score,
    Stage,
    Verified,
    Verify,
    step,
    with_mode,
)
from parallel.decoding.pace import PaceChooser
from parallel.decoding.sampling import num_candidates
from parallel.decoding.types import (
    DecodeMode,
    DraftTree,
    ScoreRow,
    SparseProbs,
    TokenLogprobs,
    Verdict,
)
from parallel.decoding.verify import recursive_rejection, sample_and_match
from parallel.decoding.width import WidthPlan
from parallel.messages import (
    DraftItem,
    DraftOpen,
    DraftRequest,
    EngineStatus,
    Hello,
    Proposal,
    ProposalItem,
)
from parallel.model.batch import SequenceRows
from runtime.clock import Clock
from runtime.drafter_port import DrafterPort
from runtime.ledger import SlotLedger
from runtime.sequence import Sequence
from runtime.shard import ShardRunner
from runtime.timeline import NoRecorder, Recorder
from runtime.timeline import Phase as Timed

_MODES = (DecodeMode.SPECULATIVE, DecodeMode.PEARL, DecodeMode.AUTOREGRESSIVE)
_MEASURED_SIZES = (1, 8, 4, 25, 6, 2, 16, 12)  # a few tell much already
_MEASURED_TIMES = 3
_MEASURED_CONTEXT = 64
_MEASURING_S = 1.0
_LAW_TOLERANCE = 1e-4  # of a law's sum; float32 laws of 64 tokens are off by 1e-6


@dataclass(slots=True, kw_only=True)
class Work:
    """What one sequence does in the current round, filled in as its machine commands it."""

    sequence: Sequence
    wanted: RequestDraft | None = None
    score: Score | None = None
    verify: Verify | None = None
    rows: list[ScoreRow] = field(default_factory=list)
    commit: Commit | None = None
    logprobs: tuple[TokenLogprobs, ...] = ()
    """Of the committed tokens, where they are wanted."""
    error: str = ""
    """Why nothing could be committed: the target's logits for it are no law."""

    @property
    def phase(self) -> Phase:
        """What its machine waits for."""
        return self.sequence.state.phase


class RoundRunner:
    """Carries out rounds on a target group and, where one is attached, a drafter."""

    def __init__(
        self,
        runner: ShardRunner,
        ledger: SlotLedger,
        port: DrafterPort,
        controller: DraftLengthController,
        clock: Clock,
        recorder: Recorder | None = None,
    ) -> None:
        self._recorder = recorder or NoRecorder()
        self._runner = runner
        self._ledger = ledger
        self._port = port
        self._controller = controller
        self._clock = clock
        self._modes = PaceChooser(_MODES)
        self._widths = WidthPlan()
        self._rounds = count(1)
        self._closed: list[int] = []
        self._last_opening = 0
        self._width = 0
        self._draft_s = 0.0
        self._draft_steps = self._num_missed = 0
        self._waited_s = 0.0
        self.totals = EngineStatus()
        """What all rounds came to; the engine fills in the rest."""

    def measure(self, max_positions: int) -> None:
        """Time forwards of a few sizes, so that the first drafts are as long as is worth it.

        Called when nothing is in flight; takes about a second. Without room it does nothing.
        """
        longest = max(_MEASURED_SIZES)
        context = min(_MEASURED_CONTEXT, max_positions - longest)
        if context < 1 or not self._ledger.fits(context + longest):
            return
        slot = 0  # sequences are numbered from 1
        self._ledger.open(slot, context + longest)
        before = SequenceRows(slot=slot, start=0, token_ids=(0,) * context, num_logits=0)
        self._runner.execute(self._ledger.plan((before,)))
        end_s = self._clock.now_s() + _MEASURING_S
        for size in _MEASURED_SIZES * _MEASURED_TIMES:
            row = SequenceRows(slot=slot, start=context, token_ids=(0,) * size, num_logits=size)
            start_s = self._clock.now_s()
            self._runner.execute(self._ledger.plan((row,), (1,) * size))
            now_s = self._clock.now_s()
            self._controller.observe_forward(size, now_s - start_s)
            if now_s > end_s:
                break
        self._ledger.close(slot)

    def release(self, sequence: Sequence) -> None:
        """Release a sequence's cache, at the target and at the drafter."""
        self._ledger.close(sequence.number)
        self._controller.forget(sequence.number)
        self._modes.forget(sequence.number)
        if sequence.known_to_drafter:
            self._closed.append(sequence.number)

    def settle(self) -> None:
        """Hand over releases that no round has carried yet, or just sign of life (when idle)."""
        if self._closed and self._port.ready:
            self._port.ask(DraftRequest(round=next(self._rounds), closed=self._take_closed()))
        self._runner.execute(self._ledger.plan())

    def stop(self) -> None:
        """Send the followers home."""
        self._runner.execute(self._ledger.plan(stop=True))

    def meet(self, hello: Hello) -> None:
        """Take in what a drafter that attached says of its steps."""
        self._controller.predict_steps(hello.step_s)
        self._widths = WidthPlan(hello.step_s, fixed=hello.width)

    def run(
        self, decoding: Items[Sequence], prefilling: Items[SequenceRows], syncing: Items[Sequence]
    ) -> list[Work]:
        """Make one round.

        Args:
            decoding: sequences that take part with a state-machine round.
            prefilling: chunks of prompts too long for this round.
            syncing: sequences in prefill whose prompt the drafter may read already.

        Returns:
            The decoding sequences' work, each with its commit or an error.

        Raises:
            PeerError: a target rank did not take part.
        """
        start_s = self._clock.now_s()
        works = [Work(sequence=sequence) for sequence in decoding]
        ready = self._port.ready
        fresh = any(work.sequence.num_cached < len(work.sequence.token_ids) - 1 for work in works)
        self._width = self._widths.choose()
        for work in works:
            self._choose_mode(work.sequence)
            length = self._draft_length(work.sequence, len(works)) if ready else 0
            self._apply(work, BeginRound(draft_length=length))
        if ready:
            self._ask(works, syncing)
        self._draft_s = self._waited_s = 0.0
        self._draft_steps = self._num_missed = 0
        self._await_drafts(works, (Phase.WAITING_DRAFT, Phase.COMPLETING))
        target_s, num_positions = self._score(works, prefilling)
        self._await_drafts(works, (Phase.SCORING,))
        if not (fresh or prefilling):  # prompts in the batch would spoil the estimate
            self._controller.observe_forward(num_positions, target_s)
        self._count_drafting(works)
        for work in works:
            try:
                self._decide(work)
            except ValueError as error:  # one sequence's logits are no reason to end the others
                work.error = str(error)
        decided = [work for work in works if work.commit is not None]
        if not (fresh or prefilling):
            self._count_modes(decided, self._clock.now_s() - start_s)
        self._count_totals(decided, target_s)
        return works

    # --- modes --------------------------------------------------------------------------------

    def _choose_mode(self, sequence: Sequence) -> None:
        """Give a request that leaves its mode to us the best one, once nothing is in flight."""
        if sequence.submit.mode is not DecodeMode.AUTO:
            return
        sequence.wanted_mode = self._modes.choose(sequence.number)
        if sequence.state.stage is Stage.PRE_VERIFY:
            sequence.state = with_mode(sequence.state, sequence.wanted_mode)

    def _count_modes(self, works: Items[Work], seconds: float) -> None:
        for work in works:
            assert work.commit is not None
            number, mode = work.sequence.number, work.sequence.mode
            self._modes.observe(number, mode, len(work.commit.token_ids), seconds)
        drafting = [work for work in works if work.wanted is not None]
        if drafting and len(drafting) == len(works):
            tokens = sum(len(work.commit.token_ids) for work in works if work.commit is not None)
            self._widths.observe(self._width, tokens, seconds)

    # --- drafts -----------------------------------------------------------------------------

    def _draft_length(self, sequence: Sequence, batch: int) -> int:
        """Return how many draft tokens are worth asking for, at most what can still be used."""
        if sequence.mode is DecodeMode.AUTOREGRESSIVE or sequence.wanted_mode is not sequence.mode:
            return 0  # what is in flight is tested first
        pearl = sequence.mode is DecodeMode.PEARL
        state = sequence.state
        usable = sequence.num_wanted - (len(state.in_flight) + state.owed if pearl else 1)
        if usable <= 0 or (state.owed and not sequence.known_to_drafter):
            return 0
        wanted = sequence.submit.draft_length
        if wanted < 0 and self._drafts_trees(sequence):
            wanted = MAX_NODES  # to be cut when it is known what they are worth
        elif wanted < 0:
            wanted = self._controller.choose(
                sequence.number, sequence.mode, batch=batch, width=self._width or 1
            )
        return min(wanted, usable)

    def _ask(self, works: Items[Work], syncing: Items[Sequence]) -> None:
        opened: list[DraftOpen] = []
        items = [
            self._item(work.sequence, opened, work.wanted.draft_length)
            for work in works
            if work.wanted is not None
        ]
        items += [self._item(sequence, opened, 0) for sequence in syncing if not _synced(sequence)]
        if not (items or self._closed):
            return
        number = next(self._rounds)
        self._last_opening = number if opened else self._last_opening
        self._port.ask(
            DraftRequest(
                round=number,
                opened=tuple(opened),
                items=tuple(items),
                closed=self._take_closed(),
                width=self._width,
            )
        )

    def _drafts_trees(self, sequence: Sequence) -> bool:
        """Tell whether trees are asked for: where drafts are compared, and need no law."""
        speculative = sequence.mode is DecodeMode.SPECULATIVE
        return self._port.grows_trees and speculative and not sequence.needs_laws

    def _item(self, sequence: Sequence, opened: list[DraftOpen], num_draft: int) -> DraftItem:
        """Make the drafter's item for a sequence, introducing it first if need be."""
        if not sequence.known_to_drafter:
            sequence.known_to_drafter = True
            sequence.view.forget()
            opened.append(_introduction(sequence))
        item = sequence.view.item(sequence.state, sequence.token_ids, num_draft)
        if not self._drafts_trees(sequence):
            return item
        chosen = sequence.submit.draft_length < 0
        least_gain = self._controller.least_gain(width=self._width or 1) if chosen else 0.0
        return replace(item, tree=True, least_gain=least_gain)

    def _await_drafts(self, works: Items[Work], phases: tuple[Phase, ...]) -> None:
        """Take drafts in until no sequence is in these phases; the wait budget over, go on without.

        Answers to earlier rounds come along here: the machines know what is still of use.
        """
        waiting = {work.sequence.number: work for work in works}
        start_s = self._clock.now_s()
        while any(work.phase in phases for work in works):
            proposal = None
            if self._port.due:
                deadline_s = start_s + self._port.wait_budget_s
                proposal = self._port.receive(0.0) or self._wait(deadline_s)
                if proposal is None:
                    self._port.miss()
            if proposal is None:
                for work in works:
                    if work.phase in phases:
                        work.sequence.counters.missed_drafts += 1
                        self._num_missed += 1
                        self._apply(work, DraftMissed())
                break
            self._take(proposal, waiting)

    def _wait(self, deadline_s: float) -> Proposal | None:
        """Wait for the drafter while the target stands still, and keep count of it."""
        start_s = self._clock.now_s()
        left_s = deadline_s - start_s
        proposal = self._port.receive(left_s) if left_s > 0 else None
        now_s = self._clock.now_s()
        self._waited_s += now_s - start_s
        self._recorder.record(Timed.WAIT, start_s, now_s, 0)
        return proposal

    def _take(self, proposal: Proposal, waiting: dict[int, Work]) -> None:
        if not proposal.partial:
            self._draft_s += proposal.draft_s
            self._draft_steps += proposal.num_steps
            # Reading a prompt would spoil the estimate.
            if proposal.num_steps and proposal.round != self._last_opening:
                self._controller.observe_draft(
                    proposal.num_steps, proposal.draft_s, width=self._width or 1
                )
        for item in proposal.items:
            work = waiting.get(item.request)
            if work is not None:
                self._deliver(work, item, len(waiting), partial=proposal.partial)

    def _deliver(self, work: Work, item: ProposalItem, batch: int, *, partial: bool) -> None:
        sequence = work.sequence
        if item.unknown:
            sequence.view.forget()
            sequence.known_to_drafter = False
        draft = usable_draft(item, self._runner.vocab_size)
        if not item.parents:
            sequence.view.drafted(item.base, item.token_ids)
        elif sequence.mode is DecodeMode.PEARL:
            draft = draft.trunk  # whoever sent a tree was not asked for one
        if item.gains and sequence.submit.draft_length < 0 and self._drafts_trees(sequence):
            draft = draft.first(self._controller.worth(item.gains, batch=batch))
        self._apply(
            work, DraftArrived(epoch=item.epoch, base=item.base, draft=draft, partial=partial)
        )

    # --- the target ---------------------------------------------------------------------------

    def _score(self, works: Items[Work], prefilling: Items[SequenceRows]) -> tuple[float, int]:
        rows = list(prefilling)
        candidates: list[int] = []
        for work in works:
            assert work.score is not None
            sequence, score = work.sequence, work.score
            uncached = tuple(sequence.token_ids[sequence.num_cached : score.start])
            rows.append(
                SequenceRows(
                    slot=sequence.number,
                    start=score.start - len(uncached),
                    token_ids=uncached + score.token_ids,
                    num_logits=score.num_logits,
                    parents=score.parents,
                    moves=score.moves,
                )
            )
            candidates += [self._candidates(sequence)] * score.num_logits
        start_s = self._clock.now_s()
        scores = self._runner.execute(self._ledger.plan(rows, candidates))
        target_s = self._clock.now_s() - start_s
        self._recorder.record(Timed.VERIFY, start_s, start_s + target_s, len(candidates))
        first = 0
        for work in works:
            assert work.score is not None
            rows_of_work = scores[first : first + work.score.num_logits]
            first += work.score.num_logits
            self._tell_scored(work, rows_of_work)
            wanted = _num_needed(work.sequence)
            work.rows = [_first(row, wanted) for row in rows_of_work]
        return target_s, sum(len(row.token_ids) for row in rows)

    def _candidates(self, sequence: Sequence) -> int:
        """Return how many best tokens of a row are needed; 0 is all of them."""
        wanted = _num_needed(sequence)
        return max(wanted, self._port.num_successors) if wanted else 0

    def _tell_scored(self, work: Work, rows: Items[ScoreRow]) -> None:
        """Keep, for a drafter that wants it, what the target found best after each token."""
        num = self._port.num_successors
        assert work.score is not None
        if num and work.sequence.mode is not DecodeMode.AUTOREGRESSIVE:
            best = (tuple(row.best(num)) for row in rows)
            work.sequence.view.scored = tuple(zip(_contexts(work), best, strict=True))

    def _decide(self, work: Work) -> None:
        """Verify the drafts against the scores and let the machine commit."""
        sequence, verify = work.sequence, work.verify
        assert verify is not None
        sampling = sequence.sampling
        verifier = recursive_rejection if sequence.needs_laws else sample_and_match
        verdict: Verdict = verifier(
            verify.draft,
            work.rows[: verify.num_rows],
            sampling,
            sequence.key,
            sequence.num_output,
            sequence.token_ids if sampling.repetition_penalty != 1 else (),
        )
        self._apply(work, Verified(verdict=verdict))
        assert work.commit is not None
        if sequence.submit.num_logprobs >= 0:
            tokens, num_top = work.commit.token_ids, sequence.submit.num_logprobs
            path = verdict.accepted_nodes or range(verdict.num_accepted)
            work.logprobs = token_logprobs(work.rows, path, tokens, num_top)
        if work.commit.num_drafted and not self._drafts_trees(sequence):
            self._controller.observe_verdict(
                sequence.number, work.commit.num_accepted, rejected=work.commit.rejected
            )

    def _apply(self, work: Work, event: Event) -> None:
        sequence = work.sequence
        sequence.state, commands = step(sequence.state, event)
        for command in commands:
            match command:
                case RequestDraft():
                    work.wanted = command
                case AwaitDraft():
                    pass  # the phase says so
                case Score():
                    work.score = command
                case Verify():
                    work.verify = command
                case Commit():
                    work.commit = command

    # --- bookkeeping --------------------------------------------------------------------------

    def _count_drafting(self, works: Items[Work]) -> None:
        hidden_s = max(0.0, self._draft_s - self._waited_s)
        for work in works:
            if work.wanted is not None:
                work.sequence.counters.draft_s += self._draft_s
                work.sequence.counters.draft_steps += self._draft_steps
                work.sequence.counters.draft_width = self._width
                predicted_s = self._widths.predicted_s(self._width, self._draft_steps)
                work.sequence.counters.predicted_s += predicted_s
                if work.sequence.mode is DecodeMode.PEARL:
                    work.sequence.counters.hidden_s += hidden_s

    def _count_totals(self, works: Items[Work], target_s: float) -> None:
        commits = [work.commit for work in works if work.commit is not None]
        before, hidden_s = self.totals, max(0.0, self._draft_s - self._waited_s)
        self.totals = replace(
            before,
            rounds=before.rounds + 1,
            tokens=before.tokens + sum(len(commit.token_ids) for commit in commits),
            drafted=before.drafted + sum(commit.num_drafted for commit in commits),
            accepted=before.accepted + sum(commit.num_accepted for commit in commits),
            rejected=before.rejected + sum(commit.rejected for commit in commits),
            missed_drafts=before.missed_drafts + self._num_missed,
            draft_s=before.draft_s + self._draft_s,
            hidden_s=before.hidden_s + hidden_s,
            target_s=before.target_s + target_s,
        )

    def _take_closed(self) -> tuple[int, ...]:
        taken, self._closed = tuple(self._closed), []
        return taken


def usable_draft(item: ProposalItem, vocab_size: int) -> DraftTree:
    """Return the draft up to the first token that cannot be tested.

    That is one the target does not know (paddings of vocabularies differ), or one that its own law
    cannot have drawn: a broken drafter must not take the leader down.
    """
    usable = 0
    for index, token in enumerate(item.token_ids):
        law = item.draft_probs[index] if item.draft_probs else None
        if not 0 <= token < vocab_size or (law and not _can_have_drawn(law, token, vocab_size)):
            break
        usable += 1
    chain = DraftTree.chain(item.token_ids[:usable], item.draft_probs[:usable])
    return replace(chain, parents=item.parents[:usable]) if item.parents else chain


def _can_have_drawn(law: SparseProbs, token: int, vocab_size: int) -> bool:
    probs = dict(zip(law.ids, law.probs, strict=True))
    known = all(0 <= drawable < vocab_size for drawable in probs)
    sums_to_one = abs(sum(law.probs) - 1) < _LAW_TOLERANCE
    return known and sums_to_one and len(probs) == len(law.ids) and probs.get(token, 0.0) > 0


def _first(row: ScoreRow, num: int) -> ScoreRow:
    """Return a row's best candidates, or all of it if `num` is 0 or it has no more."""
    if row.ids is None or not num or len(row.ids) <= num:
        return row
    return ScoreRow(row.logits[:num], row.ids[:num])


def _num_needed(sequence: Sequence) -> int:
    """Return how many best tokens of each row this request needs; 0 is all of them."""
    return 0 if sequence.submit.num_logprobs >= 0 else num_candidates(sequence.sampling)


def _synced(sequence: Sequence) -> bool:
    return len(sequence.view.token_ids) >= sequence.num_prompt


def _introduction(sequence: Sequence) -> DraftOpen:
    sampling = sequence.sampling
    return DraftOpen(
        request=sequence.number,
        key=sequence.key,
        sampling=sampling,
        num_prompt=sequence.num_prompt,
        capacity=sequence.capacity,
        send_probs=sequence.needs_laws,
    )


def _contexts(work: Work) -> list[tuple[int, ...]]:
    """Return the last two tokens before each place that was scored."""
    assert work.score is not None
    tokens = work.score.token_ids
    contexts = [tuple(work.sequence.token_ids[-2:])]
    parents = work.score.parents or range(-1, len(tokens) - 2)
    contexts += [
        (tokens[parent + 1], token) for parent, token in zip(parents, tokens[1:], strict=True)
    ]
    return contexts
