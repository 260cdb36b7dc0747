"""The operators that draw tokens and test drafts: what they accept, and their launches."""

import torch
import triton
from torch import Tensor

from parallel.triton_kernels.operator_checks import int32_matrices, one_device, require
from parallel.triton_kernels.token_draws import (
    BLOCK_TOKENS,
    choose_tokens,
    match_drafts,
    score_tokens,
)

# Shape suffixes: L = scored rows, V = tokens of this rank, C = blocks, S = sequences, N = nodes.

_EXACT = {"enable_fp_fusion": False}
_ALIGNMENT = 4
"""Numbers in a block of Philox."""


@torch.library.custom_op("paceline::score_tokens", mutates_args=("candidates_LC3",))
def score(logits_LV: Tensor, draws_L4: Tensor, candidates_LC3: Tensor, first_token: int) -> None:
    """Launch the scores of tokens; arguments as `StepKernels.score_tokens` has them."""
    _check_score(logits_LV, draws_L4, candidates_LC3, first_token)
    num_rows, num_tokens = logits_LV.shape
    num_blocks = candidates_LC3.shape[1]
    score_tokens[num_rows, num_blocks](
        logits_LV, draws_L4, candidates_LC3, logits_LV.stride(0), first_token, num_tokens,
        num_blocks, BLOCK=BLOCK_TOKENS, **_EXACT,
    )  # fmt: skip


@score.register_fake
def _check_score(
    logits_LV: Tensor, draws_L4: Tensor, candidates_LC3: Tensor, first_token: int
) -> None:
    """Raise ValueError for tensors that the launch would misread."""
    one_device(logits_LV, draws_L4, candidates_LC3)
    num_rows, num_tokens = logits_LV.shape
    require(
        logits_LV.dtype == torch.float32 and logits_LV.stride(1) == 1,
        f"logits are {logits_LV.dtype} with strides {logits_LV.stride()}: float32 rows are needed",
    )
    _require_draws(draws_L4, num_rows)
    num_blocks = -(-num_tokens // BLOCK_TOKENS)
    _require_candidates(candidates_LC3, num_rows)
    require(
        candidates_LC3.shape[1] == num_blocks,
        f"{candidates_LC3.shape[1]} candidates a row, not {num_blocks} for {num_tokens} tokens",
    )
    require(
        first_token % _ALIGNMENT == 0, f"a shard from token {first_token} on splits a noise block"
    )


@torch.library.custom_op("paceline::choose_tokens", mutates_args=("tokens_L",))
def choose(candidates_LC3: Tensor, draws_L4: Tensor, tokens_L: Tensor) -> None:
    """Launch the choice of tokens; arguments as `StepKernels.choose_tokens` has them."""
    _check_choose(candidates_LC3, draws_L4, tokens_L)
    num_rows, num_blocks, _ = candidates_LC3.shape
    choose_tokens[(num_rows,)](
        candidates_LC3, draws_L4, tokens_L, num_blocks, WIDE=triton.next_power_of_2(num_blocks),
        **_EXACT,
    )  # fmt: skip


@choose.register_fake
def _check_choose(candidates_LC3: Tensor, draws_L4: Tensor, tokens_L: Tensor) -> None:
    """Raise ValueError for tensors that the launch would misread."""
    one_device(candidates_LC3, draws_L4, tokens_L)
    _require_candidates(candidates_LC3, len(tokens_L))
    _require_draws(draws_L4, len(tokens_L))
    int32_matrices(tokens=tokens_L)


@torch.library.custom_op("paceline::match_drafts", mutates_args=("verdicts_SM",))
def match(
    tokens_L: Tensor,
    drafts_S2: Tensor,
    node_tokens_SN: Tensor,
    node_parents_SN: Tensor,
    verdicts_SM: Tensor,
) -> None:
    """Launch the test of drafts; arguments as `StepKernels.match_drafts` has them."""
    _check_match(tokens_L, drafts_S2, node_tokens_SN, node_parents_SN, verdicts_SM)
    num_sequences, num_nodes = node_tokens_SN.shape
    match_drafts[(num_sequences,)](
        tokens_L, drafts_S2, node_tokens_SN, node_parents_SN, verdicts_SM, num_nodes,
        WIDE=triton.next_power_of_2(max(1, num_nodes)), num_warps=1,
    )  # fmt: skip


@match.register_fake
def _check_match(
    tokens_L: Tensor,
    drafts_S2: Tensor,
    node_tokens_SN: Tensor,
    node_parents_SN: Tensor,
    verdicts_SM: Tensor,
) -> None:
    """Raise ValueError for tensors that the launch would misread."""
    one_device(tokens_L, drafts_S2, node_tokens_SN, node_parents_SN, verdicts_SM)
    int32_matrices(tokens=tokens_L, drafts=drafts_S2, verdicts=verdicts_SM)
    num_sequences, num_nodes = node_tokens_SN.shape
    for nodes in (node_tokens_SN, node_parents_SN):
        fits = nodes.dtype == torch.int32 and nodes.shape == (num_sequences, num_nodes)
        require(fits and nodes.is_contiguous(), "nodes are contiguous int32 rows of sequences")
    require(
        drafts_S2.shape == (num_sequences, 2)
        and verdicts_SM.shape == (num_sequences, num_nodes + 2)
        and drafts_S2.is_contiguous()
        and verdicts_SM.is_contiguous(),
        f"drafts have 2 columns and verdicts {num_nodes + 2}, for {num_sequences} sequences",
    )


def _require_draws(draws_L4: Tensor, num_rows: int) -> None:
    require(
        draws_L4.dtype == torch.int64
        and draws_L4.shape == (num_rows, 4)
        and draws_L4.is_contiguous(),
        f"draws are {num_rows} contiguous int64 rows of seed, request, position and temperature",
    )


def _require_candidates(candidates_LC3: Tensor, num_rows: int) -> None:
    require(
        candidates_LC3.dtype == torch.float64
        and len(candidates_LC3) == num_rows
        and candidates_LC3.shape[2] == 3
        and candidates_LC3.is_contiguous(),
        f"candidates are {num_rows} contiguous float64 rows of best, second and token",
    )
