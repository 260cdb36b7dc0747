"""Which sequences of a round read more of their prompts, and which decode."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from parallel.batch import SequenceRows
from parallel.decoding.modes.mode_registry import policy_of
from runtime.engine.sequence import DecodingSequence


@dataclass(slots=True)
class Shares:
    """What each sequence does in one round."""

    decoding: list[DecodingSequence] = field(default_factory=list)
    """They have read their prompt, except for what fits into this round."""
    chunks: list[SequenceRows] = field(default_factory=list)
    """Stretches of longer prompts; the cache holds them after the round."""
    syncing: list[DecodingSequence] = field(default_factory=list)
    """Sequences still reading whose drafter reads along."""


def share_prompt_budget(running: Iterable[DecodingSequence], budget: int) -> Shares:
    """Share a round's prompt tokens by age; a sequence with no more to read decodes.

    Args:
        running: sequences by age; `num_cached` rises by what each is given to read.
        budget: prompt tokens of the round.
    """
    shares = Shares()
    for sequence in running:
        unread = len(sequence.token_ids) - 1 - sequence.num_cached
        if unread <= budget:
            budget -= unread
            shares.decoding.append(sequence)
            continue
        if policy_of(sequence.asked_mode).drafts:
            shares.syncing.append(sequence)
        if budget > 0:
            start, stop = sequence.num_cached, sequence.num_cached + budget
            shares.chunks.append(
                SequenceRows(
                    slot=sequence.number,
                    start=start,
                    token_ids=tuple(sequence.token_ids[start:stop]),
                    num_logits=0,
                    adapter=sequence.submit.adapter,
                )
            )
            sequence.num_cached = stop
            budget = 0
    return shares
