"""`StepKernels` by Triton: compiled on a GPU, interpreted on a CPU with TRITON_INTERPRET=1."""

import triton
from torch import Tensor

from parallel.device_kernels.step_kernels import AttentionRows, HeadNorms, Workspace
from parallel.triton_kernels.attention_operator import paged_attention, tile_lines
from parallel.triton_kernels.draw_operators import choose, match, score
from parallel.triton_kernels.layer_operators import gate, move_cached, normalize, store_keys_values
from parallel.triton_kernels.paged_attention import SPLIT
from parallel.triton_kernels.product_operator import multiply
from parallel.triton_kernels.token_draws import BLOCK_TOKENS


class TritonKernels:
    """The kernels of a step; methods as `StepKernels` describes them."""

    def tile_rows(self, group: int, itemsize: int) -> int:
        """Return how many rows an attention tile may have."""
        lanes: int = triton.next_power_of_2(group)
        return tile_lines(group, itemsize) // lanes

    def split_size(self) -> int:
        """Return the number of keys in each split of attention."""
        return SPLIT

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
        workspace: Workspace | None = None,
    ) -> None:
        """Write the attention of every row in a tile."""
        paged_attention(
            query_RHD,
            keys_KAD,
            values_KAD,
            rows.tiles,
            rows.ranges,
            rows.bits,
            rows.trees,
            rows.tables,
            out_RHD,
            None if workspace is None else workspace.values,
            None if workspace is None else workspace.stats,
            rows.page_size,
            scale,
            cap,
        )

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
        store_keys_values(
            heads_RND,
            turns_PH2,
            positions_R,
            addresses_R,
            keys_KAD,
            values_KAD,
            None if norms is None else norms.query,
            None if norms is None else norms.key,
            0.0 if norms is None else norms.eps,
            norms is not None and norms.adds_one,
        )

    def move(self, cache_LAD: Tensor, offsets: Tensor, moves: Tensor) -> None:
        """Move cached tokens to other addresses, each sequence's in their order."""
        move_cached(cache_LAD, offsets, moves)

    def multiply(
        self, x_RI: Tensor, weight_OI: Tensor, bias_O: Tensor | None, out_RO: Tensor
    ) -> None:
        """Write x W^T + bias, summed in float32."""
        multiply(x_RI, weight_OI, bias_O, out_RO)

    def norm(
        self, x_RE: Tensor, weight_E: Tensor, out_RE: Tensor, *, eps: float, adds_one: bool = False
    ) -> None:
        """Write x normalized by its root mean square."""
        normalize(x_RE, None, None, weight_E, out_RE, eps, adds_one)

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
        normalize(x_RE, stream_RE, inner_weight_E, weight_E, out_RE, eps, adds_one)

    def gate(self, gate_up_R2F: Tensor, out_RF: Tensor, *, gelu: bool) -> None:
        """Write activation(gate) * up."""
        gate(gate_up_R2F, out_RF, gelu)

    def num_candidates(self, num_tokens: int) -> int:
        """Return how many candidates `score_tokens` leaves of this many tokens."""
        return -(-num_tokens // BLOCK_TOKENS)

    def score_tokens(
        self, logits_LV: Tensor, draws_L4: Tensor, candidates_LC3: Tensor, *, first_token: int = 0
    ) -> None:
        """Write the best token of each block of each row, and its lead."""
        score(logits_LV, draws_L4, candidates_LC3, first_token)

    def choose_tokens(self, candidates_LC3: Tensor, draws_L4: Tensor, tokens_L: Tensor) -> None:
        """Write the best candidate of each row."""
        choose(candidates_LC3, draws_L4, tokens_L)

    def match_drafts(
        self,
        tokens_L: Tensor,
        drafts_S2: Tensor,
        node_tokens_SN: Tensor,
        node_parents_SN: Tensor,
        verdicts_SM: Tensor,
    ) -> None:
        """Write which drafts equal what was drawn."""
        match(tokens_L, drafts_S2, node_tokens_SN, node_parents_SN, verdicts_SM)
