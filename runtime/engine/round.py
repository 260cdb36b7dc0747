"""The engine's edges of a round: drafters behind their ports, the target's forward, its verifier.

`parallel/rounds/round_loop.py` runs the rounds. In PEARL mode the drafter works while the
target's forward runs (arXiv 2408.11850, Algorithm 2); in draft-then-verify mode the forward waits
for the drafts.
"""

from collections.abc import Mapping
from collections.abc import Sequence as Items
from dataclasses import replace

from parallel.batch import SequenceRows, TokenDraw
from parallel.decoding.alignment import AlignedRows
from parallel.decoding.closing import Drawing, closed
from parallel.decoding.constraint import ConstraintBroken, MaskedRows, forced_tokens
from parallel.decoding.logprobs import token_logprobs
from parallel.decoding.modes.mode_registry import policy_of
from parallel.decoding.round_state import Commit, Stage
from parallel.decoding.sampling import draws_plainly, num_candidates
from parallel.decoding.score_row import ScoreRow
from parallel.decoding.types import ConstraintKind, Verdict, VerifierKind
from parallel.decoding.verdict_outcomes import VerdictOutcome
from parallel.decoding.verify import verifier_of, with_last_draft
from parallel.messages import EngineStatus, Hello
from parallel.rounds.controller import DraftLengthController
from parallel.rounds.round_edges import Forward, LookedUp
from parallel.rounds.round_loop import RoundLoop
from runtime.clock import Clock
from runtime.engine.drafter_ports import DrafterPorts
from runtime.engine.forward_times import measure_forwards
from runtime.engine.miss_lookups import MissLookups
from runtime.engine.round_drafts import RoundDrafts
from runtime.engine.round_log import RoundLog
from runtime.engine.round_work import EngineWork
from runtime.engine.sequence import DecodingSequence
from runtime.heartbeat import DRAFTING, IDLE
from runtime.rank.page_ledger import SlotLedger
from runtime.rank.shard import ShardRunner
from runtime.timeline import Recorder, SpanKind

_MOST_FORCED = 64
"""Tokens beyond a draft's length that a constraint adds at most."""


class RoundRunner:
    """Runs rounds on a target group and, where any are attached, drafters."""

    def __init__(
        self,
        runner: ShardRunner,
        ledger: SlotLedger,
        ports: DrafterPorts,
        controller: DraftLengthController,
        clock: Clock,
        recorder: Recorder | None = None,
    ) -> None:
        self.log = RoundLog(recorder)
        """Reports of the latest rounds, while a driver takes them."""
        self._runner = runner
        self._ledger = ledger
        self._ports = ports
        self._clock = clock
        self._loop: RoundLoop[EngineWork] = RoundLoop(self, controller)
        self._drafts = RoundDrafts(ports, self._loop, clock, self.log)
        self._prefilling: Items[SequenceRows] = ()
        self._syncing: Items[DecodingSequence] = ()
        self._reads_prompts = False
        self._lookups = MissLookups()
        self.totals = EngineStatus()
        """Sums over all rounds; the engine fills in the rest."""

    def measure(self, max_positions: int) -> None:
        """Time forwards of a few sizes, so that the first drafts are of a good length.

        Called when nothing is in flight; takes a second or two. Without room it does nothing.
        """
        measure_forwards(
            self._runner,
            self._ledger,
            self._clock,
            max_positions=max_positions,
            observe=self._loop.controller.observe_forward,
        )

    def count(self, commit: Commit) -> None:
        """Add what a sequence took of a round to the totals."""
        before = self.totals.counting(commit)
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
        self._loop.forget(sequence.number)
        self._drafts.release(sequence)
        self._lookups.forget(sequence.number)

    def settle(self) -> None:
        """Send releases that no round has carried yet, and a heartbeat to the ranks (when idle)."""
        self._runner.pulse.at(IDLE)
        self._drafts.settle()
        self._runner.execute(self._ledger.plan())

    def stop(self) -> None:
        """Stop the other ranks."""
        self._runner.execute(self._ledger.plan(stop=True))

    def meet(self, hello: Hello) -> None:
        """Record what an attached drafter predicts of its steps."""
        self._loop.set_draft_steps(hello.step_s, width=hello.width)

    def run(
        self,
        decoding: Items[DecodingSequence],
        prefilling: Items[SequenceRows],
        syncing: Items[DecodingSequence],
    ) -> list[EngineWork]:
        """Run one round.

        Args:
            decoding: sequences that take part with a state-machine round.
            prefilling: chunks of prompts too long for this round.
            syncing: sequences in prefill whose prompt the drafter may read already.

        Returns:
            The decoding sequences' work, each with its commit or an error.

        Raises:
            PeerError: a target rank did not take part.
        """
        works = [EngineWork(sequence=sequence) for sequence in decoding]
        self._prefilling, self._syncing = prefilling, syncing
        unread = any(s.num_cached < len(s.token_ids) - 1 for s in decoding)
        self._reads_prompts = unread or bool(prefilling)
        forward = self._loop.run(works, reads_prompts=self._reads_prompts)
        self._count_drafting(works)
        self._count_times(forward.seconds)
        self.log.end_round(
            [work.commit for work in works if work.commit is not None],
            reads_prompts=self._reads_prompts,
            now_s=self._clock.now_s(),
        )
        return works

    # --- the round's edges --------------------------------------------------------------------

    @property
    def wait_budget_s(self) -> float:
        """The longest wait for drafts that are due."""
        return self._ports.wait_budget_s

    def now_s(self) -> float:
        """Return the clock's time."""
        return self._clock.now_s()

    def begin(self, works: Items[EngineWork]) -> None:
        """Give every sequence a drafter."""
        self._drafts.begin([*(work.sequence for work in works), *self._syncing])

    def draft_limit(self, work: EngineWork) -> int | None:
        """Return how many tokens a sequence's drafter can draft now; None is any number."""
        return self._drafts.limit(work.sequence)

    def drafts_trees(self, work: EngineWork) -> bool:
        """Return whether a sequence's drafts are trees."""
        return self._drafts.are_trees(work.sequence)

    def num_forced(self, work: EngineWork) -> int:
        """Return how many tokens must follow a sequence that has no drafts in flight."""
        sequence = work.sequence
        spec = sequence.sampling.constraint
        if sequence.constraint is None or sequence.state.stage is not Stage.PRE_VERIFY:
            return 0
        if spec is not None and spec.kind is ConstraintKind.MONITOR:
            return 0  # it answers while the target's forward runs
        forced = forced_tokens(sequence.constraint, sequence.sampling.end_ids)
        return min(len(forced), _MOST_FORCED)

    def request_drafts(self, works: Items[EngineWork]) -> None:
        """Send the drafters their parts of the round."""
        self._drafts.ask(works, self._syncing)
        self._runner.pulse.at(DRAFTING)

    def take_answer(
        self, pending: Items[EngineWork], works: Mapping[int, EngineWork], deadline_s: float
    ) -> Items[EngineWork]:
        """Take the next answer of the first pending work's drafter."""
        return self._drafts.take_answer(pending, works, deadline_s)

    def take_arrived(self, works: Mapping[int, EngineWork]) -> None:
        """Take what the drafters have sent by now."""
        self._drafts.take_arrived(works)

    def take_due(
        self,
        works: Mapping[int, EngineWork],
        growing: Mapping[int, VerdictOutcome],
        patience_s: float,
    ) -> bool:
        """Wait for the next part of a drafter's answer if it is due soon."""
        return self._drafts.take_due(works, growing, patience_s)

    def look_up(self, work: EngineWork, num_draft: int) -> LookedUp:
        """Return what may follow what a work has committed, copied from its own text."""
        assert work.commit is not None
        found = self._lookups.look_up(work.sequence, work.commit, num_draft)
        return LookedUp(token_ids=tuple(found.token_ids), gains=tuple(found.gains))

    def score(self, works: Items[EngineWork]) -> Forward:
        """Run the target over prompt chunks and over what the works score."""
        self._runner.pulse.at("prefill" if self._reads_prompts else "verifying")
        rows = [*self._prefilling, *(_rows_of(work, self._draw(work)) for work in works)]
        candidates: list[int | None] = []
        for work in works:
            assert work.score is not None
            candidates += [self._candidates(work.sequence)] * work.score.num_logits
        start_s = self._clock.now_s()
        found = self._runner.decide(self._ledger.plan(rows, candidates))
        target_s = self._clock.now_s() - start_s
        self.log.record(SpanKind.VERIFY, start_s, start_s + target_s, len(candidates))
        first = 0
        decided = found.verdicts[len(self._prefilling) :]
        for work, work.decided in zip(works, decided, strict=True):
            assert work.score is not None
            rows_of_work = found.rows[first : first + work.score.num_logits]
            first += work.score.num_logits
            self._keep_successors(work, rows_of_work)
            needed = _num_needed(work.sequence)
            work.rows = [_first(row, needed) for row in rows_of_work]
        self._runner.pulse.at(DRAFTING)
        return Forward(sum(len(row.token_ids) for row in rows), target_s)

    def verdicts(self, works: Items[EngineWork]) -> Items[tuple[EngineWork, Verdict]]:
        """Verify each work's drafts against its scores; a work that fails gets an error."""
        found = []
        for work in works:
            try:
                found.append((work, _verdict(work)))
            except ConstraintBroken as error:
                work.error = cannot_continue(error)
            except ValueError as error:  # one sequence's logits are no reason to end the others
                work.error = f"the target failed: {error}"
        return found

    def report(self, work: EngineWork, verdict: Verdict) -> None:
        """Keep the log probabilities of the tokens that a verdict committed, if they are wanted."""
        num_top = work.sequence.submit.num_logprobs
        if num_top is not None:
            assert work.commit is not None
            path = verdict.accepted_nodes or range(verdict.num_accepted)
            work.logprobs = token_logprobs(work.rows, path, work.commit.token_ids, num_top)

    def _candidates(self, sequence: DecodingSequence) -> int | None:
        """Return how many best tokens of a row are needed; None is all of them."""
        needed = _num_needed(sequence)
        return None if needed is None else max(needed, self._drafts.num_successors(sequence))

    def _draw(self, work: EngineWork) -> TokenDraw | None:
        """Return how a device draws the tokens that verify a work; None where scores are needed.

        They are for log probabilities, for drafters that learn the target's best tokens, for
        `rejection` of sampled drafts, and for parameters that do more than scale (`draws_plainly`).
        """
        sequence = work.sequence
        params, submit = sequence.sampling, sequence.submit
        is_compared = params.is_greedy or submit.verifier is VerifierKind.MATCH
        reads_scores = submit.num_logprobs is not None or self._drafts.num_successors(sequence) > 0
        if not is_compared or reads_scores or not draws_plainly(params):
            return None
        return TokenDraw(
            key=sequence.key, position=sequence.num_output, temperature=params.temperature
        )

    def _keep_successors(self, work: EngineWork, rows: Items[ScoreRow]) -> None:
        """Keep the target's best tokens after each scored one, for a drafter that uses them."""
        num = self._drafts.num_successors(work.sequence)
        if num and policy_of(work.sequence.mode).drafts:
            best = (tuple(row.best(num)) for row in rows)
            work.sequence.view.scored = tuple(zip(_contexts(work), best, strict=True))

    # --- bookkeeping --------------------------------------------------------------------------

    @property
    def _hidden_s(self) -> float:
        """Seconds of this round's drafting during which the target did not wait."""
        return max(0.0, self._drafts.longest.seconds - self._drafts.waited_s)

    def _count_drafting(self, works: Items[EngineWork]) -> None:
        loop, time = self._loop, self._drafts.longest
        for work in works:
            if work.request is not None:
                counters = work.sequence.counters
                counters.draft_s += time.seconds
                counters.draft_steps += time.steps
                counters.draft_width = loop.width
                counters.predicted_s += loop.widths.predicted_s(loop.width, time.steps)
                if policy_of(work.sequence.mode).overlaps:
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


def cannot_continue(error: ConstraintBroken) -> str:
    """Return why a request fails whose constraint cannot be followed."""
    return f"the output cannot continue under its constraint: {error}"


def _rows_of(work: EngineWork, draw: TokenDraw | None) -> SequenceRows:
    """Return what the target reads of a work: tokens that are not cached yet, then its score."""
    sequence, score = work.sequence, work.score
    assert score is not None
    uncached = tuple(sequence.token_ids[sequence.num_cached : score.start])
    return SequenceRows(
        slot=sequence.number,
        start=score.start - len(uncached),
        token_ids=uncached + score.token_ids,
        num_logits=score.num_logits,
        parents=score.parents,
        moves=score.moves,
        adapter=sequence.submit.adapter,
        draw=draw,
    )


def _verdict(work: EngineWork) -> Verdict:
    """Return the verifier's verdict; raises ValueError for logits that define no distribution."""
    sequence, verify = work.sequence, work.verify
    assert verify is not None
    if work.decided is not None:
        return with_last_draft(work.decided, verify.draft, verify.num_rows)
    plain: Items[ScoreRow] = work.rows[: verify.num_rows]
    rows, aligned, end_ids = plain, None, sequence.sampling.end_ids
    if sequence.constraint is not None:
        rows = MaskedRows(plain, verify.draft, sequence.constraint, end_ids)
    if sequence.aligned is not None:
        rows = aligned = AlignedRows(plain, rows, verify.draft, sequence.aligned)
    history = sequence.token_ids if sequence.sampling.reads_history else ()
    verdict = verifier_of(sequence.submit.verifier).verify(
        verify.draft, rows, sequence.sampling, sequence.key, sequence.num_output, history
    )
    if sequence.constraint is not None and sequence.closes:
        drawing = Drawing(
            rows=rows,
            params=sequence.sampling,
            key=sequence.key,
            position=sequence.num_output,
            history=history,
        )
        verdict = closed(
            verdict, verify.draft, drawing, sequence.constraint, num_left=sequence.num_remaining
        )
    if aligned is not None:
        aligned.learn(verdict, end_ids)
    return verdict


def _first(row: ScoreRow, num: int | None) -> ScoreRow:
    """Return a row's best candidates, or all of it if `num` is None or it has no more."""
    if row.ids is None or num is None or len(row.ids) <= num:
        return row
    return ScoreRow(row.logits[:num], row.ids[:num])


def _num_needed(sequence: DecodingSequence) -> int | None:
    """Return how many best tokens of each row this request needs; None is all of them."""
    return None if sequence.submit.num_logprobs is not None else num_candidates(sequence.sampling)


def _contexts(work: EngineWork) -> list[tuple[int, ...]]:
    """Return the last two tokens before each place that was scored."""
    assert work.score is not None
    tokens = work.score.token_ids
    contexts = [tuple(work.sequence.token_ids[-2:])]
    parents = work.score.parents or range(-1, len(tokens) - 2)
    contexts += [
        (tokens[parent + 1], token) for parent, token in zip(parents, tokens[1:], strict=True)
    ]
    return contexts
