"""The kernels that one step of a decoder runs on its device, as a role.

Each method writes into tensors that the caller owns, allocates nothing that it returns, and never
waits for the device, so that a step can be recorded and replayed (CUDA graphs).
"""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

# Shape suffixes: R = rows of the batch, H = query heads, K = KV heads, D = head_dim,
# A = addresses of the cache (pages * page_size), E = hidden size, F = columns of a gate,
# I = inputs, O = outputs, L = scored rows, V = tokens of this rank, C = candidates,
# S = sequences, N = nodes of a draft.

NO_TOKEN = -1
"""In place of a token: there is none."""
NOT_FINITE = -2
"""In place of a token: its logits define no distribution."""
UNDECIDED = -3
"""In place of a token: two tokens are too close for a device to rank them as the CPU does."""
BITS_PER_WORD = 32
"""Rows of a draft tree that one word of `AttentionRows.bits` covers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionRows:
    """What each row of a batch attends to; all tensors int32, on the device.

    Positions count within the sequence's own context: position p is in page `tables[s, p //
    page_size]`. A row sees positions `first <= p < stop`, and those of its sequence's draft tree
    whose bits are set.
    """

    tiles: Tensor
    """[tiles, 3]: sequence, first row, number of rows. Each row is in exactly one tile, and a tile
    has at most as many rows as `tile_rows` allows. Tiles without rows are padding."""
    ranges: Tensor
    """[R, 3]: first, stop, and one past the last position that the row sees, bits included."""
    bits: Tensor
    """[R, words]: bit i of word w is the tree's row 32 * w + i."""
    trees: Tensor
    """[sequences]: position of the draft tree's first row; at least every `stop` if there is no
    tree."""
    tables: Tensor
    """[sequences, pages]: the pages of each context, in order."""
    page_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Workspace:
    """Partial results of attention that is split over keys; both float32, on the device."""

    values: Tensor
    """[splits, R, H, D]."""
    stats: Tensor
    """[splits, R, H, 2]: the largest score, and the sum of the weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadNorms:
    """The norms of queries and keys."""

    query: Tensor
    """[D], with the rows of each rotated pair adjacent."""
    key: Tensor
    """[D]."""
    eps: float
    adds_one: bool
    """Whether a norm multiplies by 1 + weight."""


class StepKernels(Protocol):
    """The kernels of a step.

    A row's results are the same bits in every batch, on every page and at every place in its tile.
    """

    def tile_rows(self, group: int, itemsize: int) -> int:
        """Return how many rows an attention tile may have.

        Args:
            group: query heads of a KV head.
            itemsize: bytes of a value of the cache.
        """
        ...

    def split_size(self) -> int:
        """Return the number of keys in each split of attention."""
        ...

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
        """Write the attention of every row in a tile; a row that sees nothing gets zeros.

        Args:
            query_RHD: rotated queries, of the cache's dtype; any strides of rows and heads.
            keys_KAD: the layer's keys.
            values_KAD: the layer's values.
            rows: what each row sees.
            out_RHD: the result, of the same dtype.
            scale: factor of the scores.
            cap: bound of the scores: each becomes cap * tanh(score / cap); None is no bound.
            workspace: where splits leave partial results, in two launches that fill a device at few
                rows; None walks over the splits in one launch. Both give the same bits.
        """
        ...

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
        """Normalize and rotate queries in place; store the keys, likewise, and the values.

        Args:
            heads_RND: each row's queries, keys and values, as the projection gives them.
            turns_PH2: cosine and sine of each pair of a head, by position, float32.
            positions_R: int32.
            addresses_R: int32, where in the cache; negative rows are padding and store nothing.
            keys_KAD: the layer's keys.
            values_KAD: the layer's values.
            norms: of queries and keys, before the rotation.
        """
        ...

    def move(self, cache_LAD: Tensor, offsets: Tensor, moves: Tensor) -> None:
        """Move cached tokens to other addresses, each sequence's in their order.

        Args:
            cache_LAD: [planes, A, D], the keys and values of every head in every layer.
            offsets: [sequences + 1], int32: the moves of sequence s are those from offset s to
                offset s + 1.
            moves: [moves, 2], int32: the address of a token, and where it goes.
        """
        ...

    def multiply(
        self, x_RI: Tensor, weight_OI: Tensor, bias_O: Tensor | None, out_RO: Tensor
    ) -> None:
        """Write x W^T + bias, summed in float32; out is of x's dtype, or float32."""
        ...

    def norm(
        self, x_RE: Tensor, weight_E: Tensor, out_RE: Tensor, *, eps: float, adds_one: bool = False
    ) -> None:
        """Write x normalized by its root mean square, times the weight (or 1 + weight)."""
        ...

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
        """Add a block's output to the residual stream, in place, and write the stream normalized.

        Args:
            x_RE: the block's output.
            stream_RE: the residual stream.
            weight_E: of the norm before the next block.
            out_RE: the normalized stream.
            eps: of both norms.
            adds_one: whether both norms multiply by 1 + weight.
            inner_weight_E: of a norm of x before it is added; None is no norm.
        """
        ...

    def gate(self, gate_up_R2F: Tensor, out_RF: Tensor, *, gelu: bool) -> None:
        """Write activation(gate) * up; the activation is SiLU, or GELU by its tanh form."""
        ...

    def num_candidates(self, num_tokens: int) -> int:
        """Return how many candidates `score_tokens` leaves of this many tokens."""
        ...

    def score_tokens(
        self, logits_LV: Tensor, draws_L4: Tensor, candidates_LC3: Tensor, *, first_token: int = 0
    ) -> None:
        """Write the best token of each block of each row, by logit / temperature + Gumbel noise.

        Ranks that hold parts of the vocabulary gather their candidates before one is chosen.

        Args:
            logits_LV: float32.
            draws_L4: int64: seed, request, output position, and the bits of the temperature
                (float64); a temperature of 0 is greedy.
            candidates_LC3: float64: the best score, the second best, and the best token; NaN if a
                logit is NaN or +inf.
            first_token: the token of the first column, a multiple of 4.
        """
        ...

    def choose_tokens(self, candidates_LC3: Tensor, draws_L4: Tensor, tokens_L: Tensor) -> None:
        """Write the best candidate of each row, int32, or `NOT_FINITE`, or `UNDECIDED`.

        A token that is written is the one that `parallel.decoding.sampling.sample` draws from the
        same logits.
        """
        ...

    def match_drafts(
        self,
        tokens_L: Tensor,
        drafts_S2: Tensor,
        node_tokens_SN: Tensor,
        node_parents_SN: Tensor,
        verdicts_SM: Tensor,
    ) -> None:
        """Write which drafts equal what was drawn (`sample_and_match`); all int32.

        Args:
            tokens_L: what `choose_tokens` wrote.
            drafts_S2: first scored row and number of scored rows of each sequence; node i of its
                draft is scored by the row i + 1 after the first.
            node_tokens_SN: the draft tokens.
            node_parents_SN: the node before each; -1 is the root.
            verdicts_SM: [S, N + 2]: number of accepted nodes, the token after them, and the nodes;
                the rest is -1. The token is `NO_TOKEN` for a sequence without scored rows, and
                `NOT_FINITE` or `UNDECIDED` where the row after the accepted nodes was.
        """
        ...
