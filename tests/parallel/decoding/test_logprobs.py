"""Log probabilities of committed tokens against torch's log_softmax."""

import pytest
import torch

from parallel.decoding.logprobs import token_logprobs
from parallel.decoding.score_row import ScoreRow

LOGITS = torch.tensor(
    [[0.5, 2.0, -1.0, 1.0], [3.0, 0.0, 0.1, -2.0], [1.0, 1.5, 0.0, 4.0]], dtype=torch.float32
)
ROWS = [ScoreRow(logits, None) for logits in LOGITS]
EXPECTED = LOGITS.log_softmax(-1)


def test_a_token_has_the_logprob_of_the_row_that_decided_it() -> None:
    # Nodes 0 and 1 were accepted, so their tokens were decided by the rows before them.
    found = token_logprobs(ROWS, path=(0, 1), token_ids=(1, 0, 3), num_top=0)
    expected = [EXPECTED[0, 1], EXPECTED[1, 0], EXPECTED[2, 3]]
    assert [one.logprob for one in found] == pytest.approx(
        [float(value) for value in expected], abs=1e-6
    )
    assert all(one.top_ids == () and one.top_logprobs == () for one in found)


def test_a_path_through_a_tree_skips_the_rows_of_other_branches() -> None:
    # Only node 1 was accepted: the emitted token was decided by its row, the third one.
    found = token_logprobs(ROWS, path=(1,), token_ids=(1, 3), num_top=0)
    assert found[1].logprob == pytest.approx(float(EXPECTED[2, 3]), abs=1e-6)


def test_the_likeliest_tokens_come_best_first() -> None:
    (only,) = token_logprobs(ROWS, path=(), token_ids=(2,), num_top=2)
    assert only.top_ids == (1, 3)
    assert only.top_logprobs == pytest.approx(
        [float(EXPECTED[0, 1]), float(EXPECTED[0, 3])], abs=1e-6
    )
    assert only.logprob == pytest.approx(float(EXPECTED[0, 2]), abs=1e-6)


def test_a_path_whose_end_emitted_nothing_has_one_logprob_a_token() -> None:
    assert len(token_logprobs(ROWS, path=(0, 1), token_ids=(1, 0), num_top=1)) == 2
