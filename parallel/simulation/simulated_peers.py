"""Sequences and a drafter in virtual time: what `decoding_rounds.py` makes rounds of."""

from collections.abc import Sequence as Items
from dataclasses import dataclass

from parallel.decoding.modes.mode_registry import policy_of
from parallel.decoding.round_state import DraftArrived, RequestDraft, Verify
from parallel.decoding.types import DecodeMode, DraftTree, Verdict
from parallel.rounds.machine import start
from parallel.rounds.round_loop import RoundWork
from parallel.simulation.decoding_setup import Busy, SimulatedDeployment, SimulatedRequest, Span

RIGHT, _WRONG = 1, 0
_TOKEN_BYTES = 8


class SimulatedSequence:
    """One request in flight."""

    def __init__(
        self, number: int, request: SimulatedRequest, setting: SimulatedDeployment
    ) -> None:
        self.number = number
        self.request = request
        self.asked_mode: DecodeMode = setting.mode
        self.draft_length = setting.draft_length
        self.next_mode = setting.mode
        self.state = start(
            request=number,
            mode=setting.mode,
            num_committed=request.num_prompt,
            last_token=RIGHT,
        )
        self.num_output = 0
        self.unread = request.num_prompt
        self.is_open = False
        """Whether the drafter knows it."""

    @property
    def num_remaining(self) -> int:
        """Tokens it may still generate."""
        return self.request.max_tokens - self.num_output


def verdict_on(verify: Verify) -> Verdict:
    """Accept the right drafts before the first wrong one."""
    tokens = verify.draft.token_ids
    right = tokens.index(_WRONG) if _WRONG in tokens else len(tokens)
    emits = right < verify.num_rows
    return Verdict(num_accepted=right, next_token=RIGHT if emits else None)


@dataclass(slots=True)
class SimulatedAnswer:
    """What the drafter sends, and when it is there."""

    arrives_s: float
    asked: int
    """Number of the request it answers."""
    drafts: list[tuple[int, DraftArrived]]
    """By number of the sequence."""
    partial: bool
    num_steps: int = 0
    draft_s: float = 0.0


class SimulatedDrafter:
    """Answers requests one after the other, as `serve_drafts` does."""

    def __init__(self, setting: SimulatedDeployment, spans: list[Span], keep_spans: int) -> None:
        self._setting = setting
        self._free_s = 0.0
        self._spans, self._keep_spans = spans, keep_spans

    def answer(
        self,
        now_s: float,
        number: int,
        asking: Items[RoundWork[SimulatedSequence]],
        width: int | None,
    ) -> list[SimulatedAnswer]:
        """Return what the drafter sends for a round: streamed first tokens ahead, then the rest."""
        setting, layers = self._setting, width or 1
        begin_s = max(now_s + setting.link.send_s(_TOKEN_BYTES * len(asking)), self._free_s)
        wanted = [(work.sequence, work.request) for work in asking if work.request is not None]
        num_steps = max(want.draft_length for _, want in wanted)
        first_s, later_s = setting.step_s(1), setting.step_s(layers)
        taken_s = first_s + (num_steps - 1) * later_s
        self._free_s = begin_s + taken_s
        if len(self._spans) < self._keep_spans:
            self._spans.append(Span(Busy.DRAFTER, begin_s, self._free_s))
        streams = {
            seq.number for seq, _ in wanted if policy_of(seq.state.mode).streams and num_steps > 1
        }
        answers = []
        if streams:
            ahead = [
                (seq.number, self._part(seq, want, 0, 1, layers))
                for seq, want in wanted
                if seq.number in streams
            ]
            answers.append(SimulatedAnswer(self._sent_s(begin_s + first_s, 1), number, ahead, True))
        rest = [
            (
                seq.number,
                self._part(seq, want, int(seq.number in streams), want.draft_length, layers),
            )
            for seq, want in wanted
        ]
        arrives_s = self._sent_s(self._free_s, num_steps * len(rest))
        answers.append(SimulatedAnswer(arrives_s, number, rest, False, num_steps, taken_s))
        return answers

    def _sent_s(self, now_s: float, num_tokens: int) -> float:
        return now_s + self._setting.link.send_s(_TOKEN_BYTES * num_tokens)

    def _part(
        self, sequence: SimulatedSequence, want: RequestDraft, first: int, stop: int, width: int
    ) -> DraftArrived:
        chance, stream = self._setting.chance, sequence.request.stream
        tokens = tuple(
            RIGHT if chance.is_right(stream, want.base + place, width if place else 1) else _WRONG
            for place in range(first, stop)
        )
        partial = first == 0 and stop == 1 < want.draft_length
        return DraftArrived(
            epoch=want.epoch,
            base=want.base + first,
            draft=DraftTree.chain(tokens),
            partial=partial,
        )
