"""One round of the leader: ask for drafts, score, verify, for many sequences in one forward.

What a sequence does is decided by its state machine (`parallel/decoding/machine.py`); this module
carries the machine's commands out. In PEARL mode the drafter works while the target's forward runs
(PEARL, arXiv 2408.11850, Algorithm 2); in draft-then-verify mode the forward waits for the drafts.
"""

from collections.abc import Callable
from collections.abc import Sequence as Items
from dataclasses import replace

from parallel.decoding.controller import DraftLengthController
from parallel.decoding.logprobs import token_logprobs
from parallel.decoding.machine import (
    BeginRound,
    Commit,
    Phase,
    Stage,
    Verified,
    with_mode,
)
from parallel.decoding.mode_choice import PaceChooser
from parallel.decoding.sampling import num_candidates
from parallel.decoding.score_row import ScoreRow
from parallel.decoding.types import DecodeMode, Verdict
from parallel.decoding.verify import recursive_rejection, sample_and_match
from parallel.messages import (
    EngineStatus,
    Hello,
)
from parallel.model.batch import SequenceRows
from runtime.clock import Clock
from runtime.engine.drafter_ports import DrafterPorts
from runtime.engine.round_drafts import RoundDrafts
from runtime.engine.round_work import RoundWork
from runtime.engine.sequence import DecodingSequence
from runtime.heartbeat import DRAFTING, IDLE
from runtime.rank.page_ledger import SlotLedger
from runtime.rank.shard import ShardRunner
from runtime.timeline import NoRecorder, Recorder, SpanKind

_MODES = (DecodeMode.SPECULATIVE, DecodeMode.PEARL, DecodeMode.AUTOREGRESSIVE)
_MEASURED_SIZES = (1, 8, 4, 25, 6, 2, 16, 12)  # a few tell much already
_MEASURED_TIMES = 3
_MEASURED_CONTEXT = 64
_MEASURING_S = 1.0


class RoundRunner:
    """Carries out rounds on a target group and, where one is attached, a drafter."""

    def __init__(
        self,
        runner: ShardRunner,
        ledger: SlotLedger,
        ports: DrafterPorts,
        controller: DraftLengthController,
        clock: Clock,
        recorder: Recorder | None = None,
    ) -> None:
        self._recorder = recorder or NoRecorder()
        self._runner = runner
        self._ledger = ledger
        self._ports = ports
        self._controller = controller
        self._drafts = RoundDrafts(ports, controller, clock, self._recorder)
        self._clock = clock
        self._modes = PaceChooser(_MODES)
        self.totals = EngineStatus()
        """What all rounds came to; the engine fills in the rest."""

    def measure(self, max_positions: int) -> None:
        """Time forwards of a few sizes, so that the first drafts are as long as is worth it.

        Called when nothing is in flight; takes a second or two. Without room it does nothing.
        """
        longest = max(_MEASURED_SIZES)
        context = min(_MEASURED_CONTEXT, max_positions - longest)
        if context < 1 or not self._ledger.fits(context + longest):
            return
        slot = 0  # sequences are numbered from 1
        self._ledger.open(slot, context + longest)
        before = SequenceRows(slot=slot, start=0, token_ids=(0,) * context, num_logits=0)
        self._runner.execute(self._ledger.plan((before,)))
        rows = [
            SequenceRows(slot=slot, start=context, token_ids=(0,) * size, num_logits=size)
            for size in _MEASURED_SIZES
        ]
        self._time(rows, lambda *_: None)  # the first forward of a size prepares its kernels
        self._time(rows * _MEASURED_TIMES, self._controller.observe_forward)
        self._ledger.close(slot)

    def _time(self, rows: Items[SequenceRows], observe: Callable[[int, float], None]) -> None:
        """Tell how long a forward of each takes, until a second is over."""
        end_s = self._clock.now_s() + _MEASURING_S
        for row in rows:
            start_s = self._clock.now_s()
            self._runner.execute(self._ledger.plan((row,), (1,) * row.num_logits))
            now_s = self._clock.now_s()
            observe(row.num_logits, now_s - start_s)
            if now_s > end_s:
                break

    def count(self, commit: Commit) -> None:
        """Add what a sequence took of a round to the totals."""
        before = self.totals
        self.totals = replace(
            before,
            tokens=before.tokens + len(commit.token_ids),
            drafted=before.drafted + commit.num_drafted,
            accepted=before.accepted + commit.num_accepted,
            rejected=before.rejected + commit.rejected,
        )

    def release(self, sequence: DecodingSequence) -> None:
        """Release a sequence's cache, at the target and at the drafter."""
        self._ledger.close(sequence.number)
        self._controller.forget(sequence.number)
        self._modes.forget(sequence.number)
        self._ports.release(sequence)

    def settle(self) -> None:
        """Hand over releases that no round has carried yet, or just sign of life (when idle)."""
        self._runner.pulse.at(IDLE)
        self._drafts.settle()
        self._runner.execute(self._ledger.plan())

    def stop(self) -> None:
        """Send the followers home."""
        self._runner.execute(self._ledger.plan(stop=True))

    def meet(self, hello: Hello) -> None:
        """Take in what a drafter that attached says of its steps."""
        self._drafts.meet(hello)

    def run(
        self,
        decoding: Items[DecodingSequence],
        prefilling: Items[SequenceRows],
        syncing: Items[DecodingSequence],
    ) -> list[RoundWork]:
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
        works = [RoundWork(sequence=sequence) for sequence in decoding]
        ready = self._drafts.begin([*decoding, *syncing])
        fresh = any(work.sequence.num_cached < len(work.sequence.token_ids) - 1 for work in works)
        for work in works:
            self._choose_mode(work.sequence)
            can_draft = work.sequence.drafter in ready
            length = self._drafts.length(work.sequence, len(works)) if can_draft else 0
            work.apply(BeginRound(draft_length=length))
        self._drafts.ask(ready, works, syncing)
        self._runner.pulse.at(DRAFTING)
        self._drafts.receive(works, (Phase.WAITING_DRAFT, Phase.COMPLETING))
        self._runner.pulse.at("prefill" if fresh or prefilling else "verifying")
        target_s, num_positions = self._score(works, prefilling)
        self._runner.pulse.at(DRAFTING)
        self._drafts.receive(works, (Phase.SCORING,))
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
        self._count_times(target_s)
        return works

    # --- modes --------------------------------------------------------------------------------

    def _choose_mode(self, sequence: DecodingSequence) -> None:
        """Give a request that leaves its mode to us the best one, once nothing is in flight."""
        if sequence.submit.mode is not DecodeMode.AUTO:
            return
        sequence.wanted_mode = self._modes.choose(sequence.number)
        if sequence.state.stage is Stage.PRE_VERIFY:
            sequence.state = with_mode(sequence.state, sequence.wanted_mode)

    def _count_modes(self, works: Items[RoundWork], seconds: float) -> None:
        for work in works:
            assert work.commit is not None
            number, mode = work.sequence.number, work.sequence.mode
            self._modes.observe(number, mode, len(work.commit.token_ids), seconds)
        drafting = [work for work in works if work.wanted is not None]
        if drafting and len(drafting) == len(works):
            tokens = sum(len(work.commit.token_ids) for work in works if work.commit is not None)
            self._drafts.widths.observe(self._drafts.width, tokens, seconds)

    # --- the target ---------------------------------------------------------------------------

    def _score(self, works: Items[RoundWork], prefilling: Items[SequenceRows]) -> tuple[float, int]:
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
        self._recorder.record(SpanKind.VERIFY, start_s, start_s + target_s, len(candidates))
        first = 0
        for work in works:
            assert work.score is not None
            rows_of_work = scores[first : first + work.score.num_logits]
            first += work.score.num_logits
            self._tell_scored(work, rows_of_work)
            wanted = _num_needed(work.sequence)
            work.rows = [_first(row, wanted) for row in rows_of_work]
        return target_s, sum(len(row.token_ids) for row in rows)

    def _candidates(self, sequence: DecodingSequence) -> int:
        """Return how many best tokens of a row are needed; 0 is all of them."""
        wanted = _num_needed(sequence)
        return max(wanted, self._drafts.num_successors(sequence)) if wanted else 0

    def _tell_scored(self, work: RoundWork, rows: Items[ScoreRow]) -> None:
        """Keep, for a drafter that wants it, what the target found best after each token."""
        num = self._drafts.num_successors(work.sequence)
        assert work.score is not None
        if num and work.sequence.mode is not DecodeMode.AUTOREGRESSIVE:
            best = (tuple(row.best(num)) for row in rows)
            work.sequence.view.scored = tuple(zip(_contexts(work), best, strict=True))

    def _decide(self, work: RoundWork) -> None:
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
        work.apply(Verified(verdict=verdict))
        assert work.commit is not None
        if sequence.submit.num_logprobs is not None:
            tokens, num_top = work.commit.token_ids, sequence.submit.num_logprobs
            path = verdict.accepted_nodes or range(verdict.num_accepted)
            work.logprobs = token_logprobs(work.rows, path, tokens, num_top)
        if work.commit.num_drafted and not self._drafts.are_trees(sequence):
            self._controller.observe_verdict(
                sequence.number, work.commit.num_accepted, rejected=work.commit.rejected
            )

    # --- bookkeeping --------------------------------------------------------------------------

    @property
    def _hidden_s(self) -> float:
        """Seconds of this round's drafting during which the target did not wait."""
        return max(0.0, self._drafts.longest.seconds - self._drafts.waited_s)

    def _count_drafting(self, works: Items[RoundWork]) -> None:
        drafts, time = self._drafts, self._drafts.longest
        for work in works:
            if work.wanted is not None:
                counters = work.sequence.counters
                counters.draft_s += time.seconds
                counters.draft_steps += time.steps
                counters.draft_width = drafts.width or 0
                counters.predicted_s += drafts.widths.predicted_s(drafts.width, time.steps)
                if work.sequence.mode is DecodeMode.PEARL:
                    counters.hidden_s += self._hidden_s

    def _count_times(self, target_s: float) -> None:
        before = self.totals
        self.totals = replace(
            before,
            rounds=before.rounds + 1,
            missed_drafts=before.missed_drafts + self._drafts.num_missed,
            draft_s=before.draft_s + self._drafts.longest.seconds,
            hidden_s=before.hidden_s + self._hidden_s,
            target_s=before.target_s + target_s,
        )


def _first(row: ScoreRow, num: int) -> ScoreRow:
    """Return a row's best candidates, or all of it if `num` is 0 or it has no more."""
    if row.ids is None or not num or len(row.ids) <= num:
        return row
    return ScoreRow(row.logits[:num], row.ids[:num])


def _num_needed(sequence: DecodingSequence) -> int:
    """Return how many best tokens of each row this request needs; 0 is all of them."""
    return num_candidates(sequence.sampling) if sequence.submit.num_logprobs is None else 0


def _contexts(work: RoundWork) -> list[tuple[int, ...]]:
    """Return the last two tokens before each place that was scored."""
    assert work.score is not None
    tokens = work.score.token_ids
    contexts = [tuple(work.sequence.token_ids[-2:])]
    parents = work.score.parents or range(-1, len(tokens) - 2)
    contexts += [
        (tokens[parent + 1], token) for parent, token in zip(parents, tokens[1:], strict=True)
    ]
    return contexts
