"""Draws of tokens and tests of drafts in plain torch, without a wait for the device.

Philox4x64-10 on int64 tensors, whose bits are those of `parallel/decoding/rng.py`.
"""

import torch
from torch import Tensor

from parallel.device_kernels.step_kernels import NO_TOKEN, NOT_FINITE, UNDECIDED

# Shape suffixes: L = scored rows, V = tokens, C = candidates, S = sequences, N = nodes.

_MARGIN = 1e-10
_ROUNDS = 10
_LOW = 0xFFFF_FFFF
_MULTIPLIERS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
_WEYL = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
_NO_ID = 2**31 - 1


def score(logits_LV: Tensor, draws_L4: Tensor, first_token: int) -> Tensor:
    """Return the best score of each row, the second best, and the best token, [L, 1, 3]."""
    tokens_V = torch.arange(logits_LV.shape[1], device=logits_LV.device) + first_token
    temperature_L1 = draws_L4[:, 3:].view(torch.float64)
    noisy_LV = logits_LV.double() / temperature_L1 + _gumbel(draws_L4, tokens_V)
    scores_LV = logits_LV.double().where(temperature_L1 == 0, noisy_LV)
    is_damaged_L = (logits_LV.isnan() | logits_LV.isposinf()).any(1)
    best_L, columns_L = scores_LV.masked_fill(scores_LV.isnan(), -torch.inf).max(1)
    others_LV = scores_LV.scatter(1, columns_L[:, None], -torch.inf)
    second_L = others_LV.max(1).values
    best_L = best_L.masked_fill(is_damaged_L, torch.nan)
    return torch.stack((best_L, second_L, tokens_V[columns_L].double()), dim=1)[:, None]


def choose(candidates_LC3: Tensor, draws_L4: Tensor) -> Tensor:
    """Return the token of each row, [L], or why there is none."""
    best_LC, second_LC, ids_LC = candidates_LC3.unbind(2)
    is_damaged_L = best_LC.isnan().any(1)
    best_L = best_LC.masked_fill(best_LC.isnan(), -torch.inf).max(1).values
    tokens_L = ids_LC.masked_fill(best_LC != best_L[:, None], _NO_ID).min(1).values
    chosen_LC = (best_LC == best_L[:, None]) & (ids_LC == tokens_L[:, None])
    second_L = second_LC.where(chosen_LC, best_LC).max(1).values
    is_clear_L = best_L - second_L > _MARGIN * best_L.abs().clamp(min=1)
    tokens_L = tokens_L.where(is_clear_L | (draws_L4[:, 3] == 0), UNDECIDED)
    return tokens_L.masked_fill(is_damaged_L | best_L.isneginf(), NOT_FINITE).int()


def match(
    tokens_L: Tensor, drafts_S2: Tensor, node_tokens_SN: Tensor, node_parents_SN: Tensor
) -> Tensor:
    """Return each sequence's number of accepted nodes, the token after them, and the nodes."""
    num_sequences, num_nodes = node_tokens_SN.shape
    first_S, num_rows_S = drafts_S2.long().unbind(1)
    numbers_N = torch.arange(num_nodes, device=tokens_L.device)
    is_node_SN = numbers_N < num_rows_S[:, None] - 1
    path_SN = tokens_L.new_full((num_sequences, num_nodes), -1)
    node_S, count_S = first_S.new_full((num_sequences,), -1), torch.zeros_like(first_S)
    goes_S = num_rows_S > 0
    token_S = tokens_L.new_full((num_sequences,), NO_TOKEN)
    for _ in range(num_nodes + 1):
        here_S = tokens_L[(first_S + node_S + 1).clamp(max=len(tokens_L) - 1)]
        token_S = here_S.where(goes_S, token_S)
        fits_SN = is_node_SN & (node_parents_SN == node_S[:, None])
        fits_SN &= (node_tokens_SN == token_S[:, None]) & (token_S >= 0)[:, None]
        goes_S = goes_S & fits_SN.any(1)
        node_S = fits_SN.int().argmax(1).where(goes_S, node_S) if num_nodes else node_S
        is_place_SN = goes_S[:, None] & (numbers_N == count_S[:, None])
        path_SN = node_S[:, None].int().where(is_place_SN, path_SN)
        count_S = count_S + goes_S.long()
    return torch.cat((count_S[:, None].int(), token_S[:, None], path_SN), dim=1)


def _gumbel(draws_L4: Tensor, tokens_V: Tensor) -> Tensor:
    """Return the noise of each row and token, [L, V], float64."""
    seed_L1, request_L1, position_L1 = (draws_L4[:, i : i + 1] for i in range(3))
    # Blocks of a stream are counted from 1, as numpy counts them.
    blocks_LV = (tokens_V // 4 + 1).expand(len(draws_L4), -1)
    words = _philox(blocks_LV, position_L1.expand_as(blocks_LV), seed_L1, request_L1)
    word_LV = torch.stack(words, dim=-1).gather(
        -1, (tokens_V % 4).expand(len(draws_L4), -1)[..., None]
    )[..., 0]
    uniform_LV = (_shifted(word_LV, 12).double() + 0.5) * 2.0**-52
    return -(-uniform_LV.log()).log()


def _philox(
    block: Tensor, position: Tensor, seed: Tensor, request: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    words = (block, torch.zeros_like(block), position, torch.zeros_like(block))
    for number in range(_ROUNDS):
        keys = (seed + _signed(number * _WEYL[0]), request + _signed(number * _WEYL[1]))
        tops = [_top_half(words[2 * i], _MULTIPLIERS[i]) for i in range(2)]
        lows = [words[2 * i] * _signed(_MULTIPLIERS[i]) for i in range(2)]
        words = (tops[1] ^ words[1] ^ keys[0], lows[1], tops[0] ^ words[3] ^ keys[1], lows[0])
    return words


def _top_half(word: Tensor, factor: int) -> Tensor:
    """Return the upper 64 bits of a product of unsigned words."""
    low, high = word & _LOW, _shifted(word, 32)
    low_factor, high_factor = factor & _LOW, factor >> 32
    middle = high * low_factor + _shifted(low * low_factor, 32)
    carry = low * high_factor + (middle & _LOW)
    return high * high_factor + _shifted(middle, 32) + _shifted(carry, 32)


def _shifted(word: Tensor, bits: int) -> Tensor:
    """Return an unsigned word shifted to the right."""
    shifted: Tensor = (word >> bits) & (2 ** (64 - bits) - 1)
    return shifted


def _signed(word: int) -> int:
    """Return the int64 of the same low 64 bits."""
    word &= 2**64 - 1
    return word - 2**64 if word >= 2**63 else word
