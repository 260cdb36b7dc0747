"""Draw tokens where the logits are, with the noise of `parallel/decoding/rng.py`, and test drafts.

Noise is Philox4x64-10 (Salmon et al., SC 2011) in the same bits as on a CPU. The two logarithms of
Gumbel noise may differ in their last bit between a CPU and a GPU: where two tokens are that close,
the row is left to the CPU (`UNDECIDED`).
"""

import triton
import triton.language as tl

BLOCK_TOKENS = 4096
"""Tokens that one program scores."""
MARGIN = tl.constexpr(1e-10)
"""Least lead of the best score, relative if it is above 1: thousands of roundings."""
_ROUNDS = tl.constexpr(10)
_MULTIPLIER_0 = tl.constexpr(0xD2E7470EE14C6C93)
_MULTIPLIER_1 = tl.constexpr(0xCA5A826395121157)
_WEYL_0 = tl.constexpr(0x9E3779B97F4A7C15)
_WEYL_1 = tl.constexpr(0xBB67AE8584CAA73B)
_STEP = tl.constexpr(2.0**-52)
_NO_TOKEN = tl.constexpr(-1)
_NOT_FINITE = tl.constexpr(-2)
_UNDECIDED = tl.constexpr(-3)
_NO_ID = tl.constexpr(2**31 - 1)


@triton.jit
def philox(block_N, position, seed, request):
    """Return the four words of each block of the stream SAMPLE, uint64."""
    words_0, words_1 = block_N, tl.zeros_like(block_N)
    words_2, words_3 = tl.zeros_like(block_N) + position, tl.zeros_like(block_N)
    for _ in tl.static_range(_ROUNDS):
        product_0 = words_0 * _MULTIPLIER_0
        product_1 = words_2 * _MULTIPLIER_1
        top_0 = tl.umulhi(words_0, tl.zeros_like(block_N) + _MULTIPLIER_0)
        top_1 = tl.umulhi(words_2, tl.zeros_like(block_N) + _MULTIPLIER_1)
        words_0, words_2 = top_1 ^ words_1 ^ seed, top_0 ^ words_3 ^ request
        words_1, words_3 = product_1, product_0
        seed += _WEYL_0
        request += _WEYL_1
    return words_0, words_1, words_2, words_3


@triton.jit
def uniform(word_N):
    """Return words as float64 numbers of the open interval (0, 1)."""
    return ((word_N >> 12).to(tl.float64) + 0.5) * _STEP


@triton.jit
def _better(best_N, second_N, id_N, score_N, token_N):
    """Return the best score, the second best and the best token so far; of equals, the first."""
    wins_N = score_N > best_N
    second_N = tl.where(wins_N, best_N, tl.maximum(second_N, score_N))
    return tl.where(wins_N, score_N, best_N), second_N, tl.where(wins_N, token_N, id_N)


@triton.jit
def _best_of(best_N, second_N, id_N):
    """Return the best score of all lanes, the second best, and the best token, the lowest."""
    best = tl.max(best_N, 0)
    token = tl.min(tl.where(best_N == best, id_N, _NO_ID), 0)
    second = tl.max(tl.where((best_N == best) & (id_N == token), second_N, best_N), 0)
    return best, second, token


@triton.jit
def score_tokens(
    logits_ptr, draws_ptr, candidates_ptr, logits_row, first_token, num_tokens, num_blocks,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Find the best token of a block of a row. Ids are (row, block)."""
    row = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1)
    groups_N = block * (BLOCK // 4) + tl.arange(0, BLOCK // 4)
    draw_ptr = draws_ptr + row * 4
    temperature = tl.load(draw_ptr + 3).to(tl.float64, bitcast=True)
    seed = tl.load(draw_ptr).to(tl.uint64)
    request = tl.load(draw_ptr + 1).to(tl.uint64)
    position = tl.load(draw_ptr + 2).to(tl.uint64)
    # Blocks of a stream are counted from 1, as numpy counts them.
    counter_N = (groups_N + (first_token // 4 + 1)).to(tl.uint64)
    words_0, words_1, words_2, words_3 = philox(counter_N, position, seed, request)
    best_N = tl.full((BLOCK // 4,), float("-inf"), tl.float64)
    second_N = best_N
    id_N = tl.full((BLOCK // 4,), _NO_ID, tl.int32)
    damaged_N = tl.zeros((BLOCK // 4,), tl.int32)
    for place in tl.static_range(4):
        column_N = groups_N * 4 + place
        logit_N = tl.load(
            logits_ptr + row * logits_row + column_N,
            mask=column_N < num_tokens,
            other=float("-inf"),
        )
        damaged_N += ((logit_N != logit_N) | (logit_N == float("inf"))).to(tl.int32)
        score_N = logit_N.to(tl.float64)
        if temperature > 0.0:
            word_N = words_0
            if place == 1:
                word_N = words_1
            if place == 2:
                word_N = words_2
            if place == 3:
                word_N = words_3
            score_N = score_N / temperature - tl.log(-tl.log(uniform(word_N)))
        best_N, second_N, id_N = _better(best_N, second_N, id_N, score_N, first_token + column_N)
    best, second, token = _best_of(best_N, second_N, id_N)
    best = tl.where(tl.max(damaged_N, 0) > 0, float("nan"), best)
    candidate = candidates_ptr + (row * num_blocks + block) * 3
    tl.store(candidate, best)
    tl.store(candidate + 1, second)
    tl.store(candidate + 2, token.to(tl.float64))


@triton.jit
def choose_tokens(
    candidates_ptr, draws_ptr, tokens_ptr, num_blocks, WIDE: tl.constexpr
):  # fmt: skip
    """Choose the best candidate of a row, or say why none can be. Ids are (row)."""
    row = tl.program_id(0).to(tl.int64)
    blocks_C = tl.arange(0, WIDE)
    mask_C = blocks_C < num_blocks
    candidate_C = candidates_ptr + (row * num_blocks + blocks_C) * 3
    best_C = tl.load(candidate_C, mask=mask_C, other=float("-inf"))
    second_C = tl.load(candidate_C + 1, mask=mask_C, other=float("-inf"))
    id_C = tl.load(candidate_C + 2, mask=mask_C, other=_NO_ID).to(tl.int32)
    is_damaged = tl.max((best_C != best_C).to(tl.int32), 0) > 0
    best_C = tl.where(best_C != best_C, float("-inf"), best_C)
    best, second, token = _best_of(best_C, second_C, id_C)
    is_greedy = tl.load(draws_ptr + row * 4 + 3) == 0
    is_alone = second == float("-inf")
    lead = best - tl.where(is_alone, 0.0, second)
    is_clear = is_greedy | is_alone | (lead > tl.maximum(tl.abs(best), 1.0) * MARGIN)
    token = tl.where(is_clear, token, _UNDECIDED)
    token = tl.where(is_damaged | (best == float("-inf")), _NOT_FINITE, token)
    tl.store(tokens_ptr + row, token)


@triton.jit
def match_drafts(
    tokens_ptr, drafts_ptr, node_tokens_ptr, node_parents_ptr, verdicts_ptr, num_nodes,
    WIDE: tl.constexpr,
):  # fmt: skip
    """Walk down a sequence's draft as far as it equals what was drawn. Ids are (sequence).

    Writes the number of accepted nodes, the token after them, and the nodes in their order.
    """
    sequence = tl.program_id(0).to(tl.int64)
    first = tl.load(drafts_ptr + sequence * 2)
    num_rows = tl.load(drafts_ptr + sequence * 2 + 1)
    nodes_W = tl.arange(0, WIDE)
    is_node_W = nodes_W < num_rows - 1
    drafted_W = tl.load(node_tokens_ptr + sequence * num_nodes + nodes_W, mask=is_node_W, other=-1)
    parents_W = tl.load(node_parents_ptr + sequence * num_nodes + nodes_W, mask=is_node_W, other=-2)
    verdict_ptr = verdicts_ptr + sequence * (num_nodes + 2)
    path_W = tl.full((WIDE,), -1, tl.int32)
    node = tl.full((), -1, tl.int32)
    count = tl.full((), 0, tl.int32)
    token = tl.full((), _NO_TOKEN, tl.int32)
    continues = num_rows > 0
    while continues:
        token = tl.load(tokens_ptr + first + node + 1)
        fits_W = is_node_W & (parents_W == node) & (drafted_W == token)
        match = tl.min(tl.where(fits_W, nodes_W, WIDE), 0)
        continues = (token >= 0) & (match < WIDE)
        path_W = tl.where(continues & (nodes_W == count), match, path_W)
        count += continues.to(tl.int32)
        node = tl.where(continues, match, node)
    tl.store(verdict_ptr, count)
    tl.store(verdict_ptr + 1, token)
    tl.store(verdict_ptr + 2 + nodes_W, path_W, mask=nodes_W < num_nodes)
