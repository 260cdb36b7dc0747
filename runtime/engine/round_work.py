"""What a sequence does in one round of the engine."""

from dataclasses import dataclass, field

from parallel.decoding.score_row import ScoreRow
from parallel.decoding.types import TokenLogprobs, Verdict
from parallel.rounds.round_edges import RoundWork
from runtime.engine.sequence import DecodingSequence


@dataclass(slots=True, kw_only=True)
class EngineWork(RoundWork[DecodingSequence]):
    """A sequence's work with the target's scores."""

    rows: list[ScoreRow] = field(default_factory=list)
    decided: Verdict | None = None
    """The verdict of the target's device on the drafts that it scored."""
    logprobs: tuple[TokenLogprobs, ...] = ()
    """Of the committed tokens, where they are requested."""
    error: str = ""
    """Why nothing could be committed: the logits define no distribution, or no token is legal."""
