"""Sequences and a drafter in virtual time: what `simulate.py` makes rounds of."""

from collections.abc import Sequence as Items
from dataclasses import dataclass

from parallel.decoding.machine import (
    AwaitDraft,
    BeginRound,
    Commit,
    DraftArrived,
    Event,
    RequestDraft,
    Score,
    Verified,
    Verify,
    start,
    step,
)
from parallel.decoding.types import DecodeMode, DraftTree, Verdict
from parallel.simulation.decoding_setup import Busy, Setting, SimulatedRequest, Span

RIGHT, _WRONG = 1, 0
_TOKEN_BYTES = 8


class SimulatedSequence:
    """One request in flight."""

    def __init__(self, number: int, request: SimulatedRequest, mode: DecodeMode) -> None:
        self.number = number
        self.request = request
        self.wanted_mode = mode
        self.state = start(
            request=number, mode=mode, num_committed=request.num_prompt, last_token=RIGHT
        )
        self.num_output = 0
        self.unread = request.num_prompt
        self.is_open = False
        """Whether the drafter knows it."""
        self.wanted: RequestDraft | None = None
        self.score: Score | None = None
        self.verify: Verify | None = None
        self.commit: Commit | None = None

    @property
    def num_wanted(self) -> int:
        """Tokens it may still generate."""
        return self.request.max_tokens - self.num_output

    def apply(self, event: Event) -> None:
        """Let its machine take an event in, and keep what it commands."""
        self.state, commands = step(self.state, event)
        for command in commands:
            match command:
                case RequestDraft():
                    self.wanted = command
                case Score():
                    self.score = command
                case Verify():
                    self.verify = command
                case Commit():
                    self.commit = command
                case AwaitDraft():
                    pass

    def begin(self, draft_length: int) -> None:
        """Begin a round."""
        self.wanted = self.score = self.verify = self.commit = None
        self.apply(BeginRound(draft_length=draft_length))

    def decide(self) -> Commit:
        """Accept the right drafts before the first wrong one."""
        assert self.verify is not None
        tokens = self.verify.draft.token_ids
        right = tokens.index(_WRONG) if _WRONG in tokens else len(tokens)
        emits = right < self.verify.num_rows
        self.apply(
            Verified(verdict=Verdict(num_accepted=right, next_token=RIGHT if emits else None))
        )
        assert self.commit is not None
        return self.commit


@dataclass(slots=True)
class SimulatedAnswer:
    """What the drafter sends, and when it is there."""

    arrives_s: float
    asked: int
    """Number of the request it answers."""
    drafts: list[tuple[SimulatedSequence, DraftArrived]]
    partial: bool
    num_steps: int = 0
    draft_s: float = 0.0


class SimulatedDrafter:
    """Answers requests one after the other, as `serve_drafts` does."""

    def __init__(self, setting: Setting, spans: list[Span], keep_spans: int) -> None:
        self._setting = setting
        self._free_s = 0.0
        self._spans, self._keep_spans = spans, keep_spans

    def answer(
        self, now_s: float, number: int, asking: Items[SimulatedSequence], width: int | None
    ) -> list[SimulatedAnswer]:
        """Return what the drafter sends for a round: PEARL's first tokens ahead, then the rest."""
        setting = self._setting
        begin_s = max(now_s + setting.link.send_s(_TOKEN_BYTES * len(asking)), self._free_s)
        wanted = [(seq, seq.wanted) for seq in asking if seq.wanted is not None]
        num_steps = max(want.draft_length for _, want in wanted)
        layers = width or 1
        first_s, later_s = setting.step_s(1), setting.step_s(layers)
        taken_s = first_s + (num_steps - 1) * later_s
        self._free_s = begin_s + taken_s
        if len(self._spans) < self._keep_spans:
            self._spans.append(Span(Busy.DRAFTER, begin_s, self._free_s))
        streams = [s for s, _ in wanted if s.state.mode is DecodeMode.PEARL and num_steps > 1]
        answers = []
        if streams:
            ahead = [(s, self._part(s, w, 0, 1, layers)) for s, w in wanted if s in streams]
            answers.append(SimulatedAnswer(self._sent_s(begin_s + first_s, 1), number, ahead, True))
        rest = [(s, self._part(s, w, int(s in streams), w.draft_length, layers)) for s, w in wanted]
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
