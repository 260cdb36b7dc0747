"""What a sequence does in one round."""

from dataclasses import dataclass, field

from parallel.decoding.machine import Commit, Event, Phase, RequestDraft, Score, Verify, step
from parallel.decoding.score_row import ScoreRow
from parallel.decoding.types import TokenLogprobs
from runtime.engine.sequence import DecodingSequence


@dataclass(slots=True, kw_only=True)
class RoundWork:
    """What one sequence does in the current round, filled in as its machine commands it."""

    sequence: DecodingSequence
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

    def apply(self, event: Event) -> None:
        """Let its machine take an event, and note what it commands."""
        self.sequence.state, commands = step(self.sequence.state, event)
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
                case _:
                    pass  # to await a draft: the phase says so
