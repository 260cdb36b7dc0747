"""`StepKernels` in plain torch: what each kernel means, at any precision and on any device."""

import torch
import torch.nn.functional as F
from torch import Tensor

from parallel.device_kernels import plain_draws
from parallel.device_kernels.step_kernels import BITS_PER_WORD, AttentionRows, HeadNorms, Workspace

# Shape suffixes: R = rows, H = query heads, K = KV heads, G = query heads of a KV head,
# D = head_dim, C = positions of a context, A = addresses of the cache, E = hidden size.

_SPLIT = 256


class PlainKernels:
    """The kernels of a step; methods as `StepKernels` describes them."""

    def tile_rows(self, group: int, itemsize: int) -> int:
        """Return how many rows an attention tile may have: any number."""
        return max(1, 64 // (group * itemsize))

    def split_size(self) -> int:
        """Return the number of keys in each split of attention."""
        return _SPLIT

    def attend(
        self,
        query_RHD: Tensor,
        keys_KAD: Tensor,
        values_KAD: Tensor,
        rows: AttentionRows,
        out_RHD: Tensor,
        *,
        scale: float,
        cap: float | None = None,
        workspace: Workspace | None = None,  # noqa: ARG002  # nothing is split
    ) -> None:
        """Write the attention of every row in a tile."""
        num_rows, num_heads, dim = query_RHD.shape
        num_kv = len(keys_KAD)
        sequences_R = _sequences(rows, num_rows)
        seen_RC = _seen(rows, sequences_R)
        offsets = torch.arange(rows.page_size, device=query_RHD.device)
        address_SC = (rows.tables.long()[:, :, None] * rows.page_size + offsets).flatten(1)
        # What no row sees may be anything, also no page and no number.
        address_RC = address_SC[sequences_R].where(seen_RC, 0)
        hidden_R1C1 = ~seen_RC[:, None, :, None]
        keys_RKCD = keys_KAD[:, address_RC].transpose(0, 1).masked_fill(hidden_R1C1, 0)
        values_RKCD = values_KAD[:, address_RC].transpose(0, 1).masked_fill(hidden_R1C1, 0)
        wide = torch.promote_types(query_RHD.dtype, torch.float32)
        query_RKGD = query_RHD.reshape(num_rows, num_kv, num_heads // num_kv, dim).to(wide)
        score_RKGC = torch.einsum("rkgd,rkcd->rkgc", query_RKGD, keys_RKCD.to(wide)) * scale
        if cap is not None:
            score_RKGC = (score_RKGC / cap).tanh() * cap
        score_RKGC = score_RKGC.masked_fill(~seen_RC[:, None, None], -torch.inf)
        weight_RKGC = score_RKGC.softmax(-1).masked_fill(~seen_RC[:, None, None], 0)
        summed = torch.einsum("rkgc,rkcd->rkgd", weight_RKGC, values_RKCD.to(wide))
        out_RHD.copy_(summed.reshape(num_rows, num_heads, dim))

    def rotate_and_store(
        self,
        heads_RND: Tensor,
        turns_PH2: Tensor,
        positions_R: Tensor,
        addresses_R: Tensor,
        keys_KAD: Tensor,
        values_KAD: Tensor,
        *,
        norms: HeadNorms | None = None,
    ) -> None:
        """Normalize and rotate queries in place; store the keys, likewise, and the values."""
        num_kv, num_heads = len(keys_KAD), heads_RND.shape[1]
        query_RHD, key_RKD, value_RKD = heads_RND.tensor_split(
            (num_heads - 2 * num_kv, num_heads - num_kv), dim=1
        )
        if norms is not None:
            query_RHD.copy_(_normalized(query_RHD, norms.query, norms.eps, norms.adds_one))
            key_RKD = _normalized(key_RKD, norms.key, norms.eps, norms.adds_one)
        turns_RH2 = turns_PH2[positions_R.long()]
        query_RHD.copy_(_rotated(query_RHD, turns_RH2))
        # A padding row repeats a row that stores; if there is none, it stores what is there.
        sources_R, places_R, stores_R = _storing_rows(addresses_R)
        for cache_KAD, new_RKD in (
            (keys_KAD, _rotated(key_RKD, turns_RH2)),
            (values_KAD, value_RKD),
        ):
            new_KRD = new_RKD[sources_R].transpose(0, 1)
            cache_KAD[:, places_R] = new_KRD.where(stores_R[:, None], cache_KAD[:, places_R])

    def move(self, cache_LAD: Tensor, offsets: Tensor, moves: Tensor) -> None:
        """Move cached tokens to other addresses, each sequence's in their order."""
        if not len(moves):
            return
        numbers = torch.arange(len(moves), device=moves.device)
        is_move = (numbers >= offsets[0]) & (numbers < offsets[-1])
        sources, places, stores = _storing_rows(moves[:, 1].where(is_move, -1))
        moved_LMD = cache_LAD[:, moves[sources, 0].where(stores, 0).long()]
        cache_LAD[:, places] = moved_LMD.where(stores[:, None], cache_LAD[:, places])

    def multiply(
        self, x_RI: Tensor, weight_OI: Tensor, bias_O: Tensor | None, out_RO: Tensor
    ) -> None:
        """Write x W^T + bias, each row by itself."""
        bias = None if bias_O is None else _wide(bias_O)
        for row, x_I in enumerate(_wide(x_RI)):
            out_RO[row] = F.linear(x_I, _wide(weight_OI), bias)

    def norm(
        self, x_RE: Tensor, weight_E: Tensor, out_RE: Tensor, *, eps: float, adds_one: bool = False
    ) -> None:
        """Write x normalized by its root mean square."""
        out_RE.copy_(_normalized(x_RE, weight_E, eps, adds_one))

    def add_and_norm(
        self,
        x_RE: Tensor,
        stream_RE: Tensor,
        weight_E: Tensor,
        out_RE: Tensor,
        *,
        eps: float,
        adds_one: bool = False,
        inner_weight_E: Tensor | None = None,
    ) -> None:
        """Add a block's output to the residual stream, and write the stream normalized."""
        if inner_weight_E is not None:
            x_RE = _normalized(x_RE, inner_weight_E, eps, adds_one)
        stream_RE.add_(x_RE)
        out_RE.copy_(_normalized(stream_RE, weight_E, eps, adds_one))

    def gate(self, gate_up_R2F: Tensor, out_RF: Tensor, *, gelu: bool) -> None:
        """Write activation(gate) * up."""
        gate, up = _wide(gate_up_R2F).chunk(2, dim=-1)
        out_RF.copy_((F.gelu(gate, approximate="tanh") if gelu else F.silu(gate)) * up)

    def num_candidates(self, num_tokens: int) -> int:  # noqa: ARG002  # a row is one block
        """Return how many candidates `score_tokens` leaves of this many tokens."""
        return 1

    def score_tokens(
        self, logits_LV: Tensor, draws_L4: Tensor, candidates_LC3: Tensor, *, first_token: int = 0
    ) -> None:
        """Write the best token of each row, and its lead."""
        candidates_LC3.copy_(plain_draws.score(logits_LV, draws_L4, first_token))

    def choose_tokens(self, candidates_LC3: Tensor, draws_L4: Tensor, tokens_L: Tensor) -> None:
        """Write the best candidate of each row."""
        tokens_L.copy_(plain_draws.choose(candidates_LC3, draws_L4))

    def match_drafts(
        self,
        tokens_L: Tensor,
        drafts_S2: Tensor,
        node_tokens_SN: Tensor,
        node_parents_SN: Tensor,
        verdicts_SM: Tensor,
    ) -> None:
        """Write which drafts equal what was drawn."""
        verdicts_SM.copy_(plain_draws.match(tokens_L, drafts_S2, node_tokens_SN, node_parents_SN))


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _normalized(x: Tensor, weight: Tensor, eps: float, adds_one: bool) -> Tensor:
    wide = _wide(x)
    scale = (wide.square().mean(-1, keepdim=True) + eps).rsqrt()
    return (wide * scale * (_wide(weight) + int(adds_one))).to(x.dtype)


def _rotated(x_RND: Tensor, turns_RH2: Tensor) -> Tensor:
    even, odd = _wide(x_RND).reshape(*x_RND.shape[:-1], -1, 2).unbind(-1)
    cos, sin = turns_RH2[:, None].unbind(-1)
    turned = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1)
    return turned.flatten(-2).to(x_RND.dtype)


def _storing_rows(addresses_R: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return for each row which row to store where, and whether any row stores at all."""
    is_padding = addresses_R < 0
    some = (~is_padding).int().argmax()
    numbers = torch.arange(len(addresses_R), device=addresses_R.device)
    sources = numbers.where(~is_padding, some)
    places = addresses_R.long()[sources]
    return sources, places.clamp(min=0), places >= 0


def _sequences(rows: AttentionRows, num_rows: int) -> Tensor:
    """Return each row's sequence, [R]: that of its tile."""
    numbers = torch.arange(num_rows, device=rows.tiles.device)[:, None]
    sequences_T, firsts_T, counts_T = rows.tiles.long().unbind(1)
    in_tile_RT = (numbers >= firsts_T) & (numbers < firsts_T + counts_T)
    return (in_tile_RT * sequences_T).sum(1)


def _seen(rows: AttentionRows, sequences_R: Tensor) -> Tensor:
    """Return which positions of its sequence's context each row sees, [R, C]."""
    positions_C = torch.arange(rows.tables.shape[1] * rows.page_size, device=rows.tables.device)
    first_R, stop_R, _ = rows.ranges.unbind(1)
    seen_RC = (positions_C >= first_R[:, None]) & (positions_C < stop_R[:, None])
    node_RC = positions_C - rows.trees[sequences_R][:, None].long()
    num_bits = BITS_PER_WORD * rows.bits.shape[1]
    in_tree_RC = (node_RC >= 0) & (node_RC < num_bits)
    node_RC = node_RC.clamp(0, num_bits - 1)
    words_RC = rows.bits.gather(1, node_RC // BITS_PER_WORD)
    is_set_RC = ((words_RC >> (node_RC % BITS_PER_WORD)) & 1) != 0
    return seen_RC | (in_tree_RC & is_set_RC)
