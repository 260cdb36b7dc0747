"""What a forward drew where its logits are, as the rows and verdicts that the host reads."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from parallel.batch import SequenceRows
from parallel.decoding.score_row import ScoreRow
from parallel.decoding.types import Verdict
from parallel.device_kernels.step_kernels import NOT_FINITE
from parallel.device_step.drawn_tokens import DrawnTokens


@dataclass(frozen=True, slots=True)
class DrawnRows:
    """A step's rows and verdicts, as far as its device decided them."""

    rows: list[ScoreRow | None]
    """For each scored row one candidate, the token that it draws; NaN where its logits define no
    distribution. None where the scores are needed: the sequence asks for them, or two tokens are
    too close for the device to rank."""
    verdicts: list[Verdict | None]
    """For each sequence, which of its drafts stay, and the token after them; None where the device
    cannot tell."""


def drawn_rows(rows: Sequence[SequenceRows], drawn: DrawnTokens | None) -> DrawnRows:
    """Download what was drawn: a step's only wait for its device.

    Args:
        rows: what was scored.
        drawn: from their logits; None: nothing was.
    """
    wanted = [row.draw is not None for row in rows for _ in range(row.num_logits)]
    if drawn is None or not any(wanted):
        return DrawnRows([None] * len(wanted), [None] * len(rows))
    drawn = drawn.cpu()
    tokens = drawn.tokens[: len(wanted)]
    ids = tokens.long()
    scores = torch.zeros(len(ids)).masked_fill(tokens == NOT_FINITE, torch.nan)
    known = [
        is_wanted and (token >= 0 or token == NOT_FINITE)
        for is_wanted, token in zip(wanted, tokens.tolist(), strict=True)
    ]
    verdicts = drawn.verdicts[: len(rows)].tolist()
    return DrawnRows(
        [
            ScoreRow(scores[i : i + 1], ids[i : i + 1]) if is_known else None
            for i, is_known in enumerate(known)
        ],
        [
            None if row.draw is None else _verdict(words)
            for row, words in zip(rows, verdicts, strict=True)
        ],
    )


def _verdict(words: Sequence[int]) -> Verdict | None:
    """Return what `StepKernels.match_drafts` wrote; None without a token after the drafts."""
    num_accepted, token, *nodes = words
    if token < 0:
        return None
    path = tuple(nodes[:num_accepted])
    return Verdict(num_accepted=num_accepted, next_token=token, accepted_nodes=path)
