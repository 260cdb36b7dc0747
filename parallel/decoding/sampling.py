"""Turn logits into the distribution a request samples from, and draw from it.

The transforms are those of transformers' generation, in its order: what `logit_shaping` does, then
temperature, top-k, top-p, min-p. Draws are Gumbel-max with noise indexed by token id, so that two
models that share a key agree as often as the coupling allows without talking (Daliri, Musco,
Suresh, "Coupling without communication and drafter-invariant speculative decoding", arXiv
2408.07978).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from parallel.decoding.logit_shaping import shaped
from parallel.decoding.rng import Floats, Ints, Purpose, uniforms, uniforms_at
from parallel.decoding.score_row import ScoreRow
from parallel.decoding.types import RngKey, SamplingParams

_Values = TypeVar("_Values", NDArray[np.float32], Floats)

_REMEDY = (
    "it must be finite; in float16 numbers above 65504 overflow, so take bfloat16 or float32; in "
    "these the weights are damaged"
)
_FIRST_TOP = 256  # best tokens looked at first; one row in few has its nucleus beyond them
_WIDEN = 8


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Distribution:
    """Probabilities of the tokens that can be drawn."""

    ids: Ints
    """[num], ascending."""
    probs: Floats
    """[num], positive, sums to 1."""


def num_candidates(params: SamplingParams) -> int | None:
    """Return how many best tokens of a row `sample` and `distribution` need; None is all of them.

    Exact because all that follows top-k looks only at the k best tokens: softmax, top-p and min-p
    are taken over what top-k kept. A bias or a penalty reorders tokens, so the best tokens before
    it need not be the best after it; without top-k, every token has mass. The code that gathers
    rows breaks ties at the k-th logit by lowest id, as `distribution` does on a whole row.
    """
    if params.shapes_logits:
        return None
    return 1 if params.is_greedy else params.top_k or None


def draws_plainly(params: SamplingParams) -> bool:
    """Return whether logits, temperature and noise alone decide a draw, as kernels compute it.

    Not where anything precedes the temperature (constraint, bias, penalties, held-back ends), nor
    where a sampled token is one of the best only (top-k, top-p, min-p).
    """
    truncates = params.top_k > 0 or params.top_p < 1 or params.min_p > 0
    return not params.shapes_logits and (params.is_greedy or not truncates)


def distribution(
    row: ScoreRow, params: SamplingParams, history: Sequence[int] = (), position: int = 0
) -> Distribution:
    """Return the distribution that `sample` draws from.

    Where logits tie at the edge of top-k or top-p, the lowest ids are kept, so that k tokens are k;
    transformers keeps all ties at the edge of top-k and an arbitrary one at that of top-p.

    Args:
        row: logits of all tokens, or of at least `num_candidates(params)` best ones.
        params: temperature 0 gives the best token, of ties the lowest id, all the mass.
        history: the tokens before this position, read only by penalties.
        position: index of the next token in the output, read only by what `logit_shaping` does.

    Raises:
        ValueError: no logit is finite, one is NaN or +inf, or a bias or a penalty meets a partial
            row.
    """
    ids, logits = _shaped(row, params, history, position)
    if params.is_greedy:
        return Distribution(ids=np.array([_best(ids, logits)]), probs=np.ones(1))
    ids, scaled = _kept(ids, logits, params)
    weights = np.exp(scaled - scaled.max())
    if not weights.all():  # underflow, or masked logits
        ids, weights = ids[weights > 0], weights[weights > 0]
    return Distribution(ids=ids, probs=weights / weights.sum())


def sample(
    row: ScoreRow,
    params: SamplingParams,
    key: RngKey,
    position: int,
    history: Sequence[int] = (),
) -> int:
    """Draw a token from `distribution(row, params, history, position)`, by this position's noise.

    The best of log-probability plus Gumbel noise, where token `id` has number `id` of the SAMPLE
    stream: neither normalisation nor the set of candidates that was gathered matters.

    Args:
        row: as in `distribution`.
        params: as in `distribution`; `params.seed` is not read, the key holds the seed.
        key: names the request's noise.
        position: index of the drawn token in the output.
        history: as in `distribution`.

    Raises:
        ValueError: as in `distribution`.
    """
    if row.ids is not None and len(row.ids) == 1:
        return _only_one(row)
    ids, logits = _shaped(row, params, history, position)
    if params.is_greedy:
        return _best(ids, logits)
    kept, scaled = _kept(ids, logits, params)
    if len(kept) == 1:
        return int(kept[0])
    if len(kept) == len(logits) and row.ids is None:
        numbers = uniforms(key, position, Purpose.SAMPLE, len(kept))
    else:
        numbers = uniforms_at(key, position, Purpose.SAMPLE, kept)
    return int(kept[_gumbel_argmax(scaled, numbers)])


@dataclass(frozen=True, slots=True)
class RankedToken:
    """A token and its place in the order that a draw goes by."""

    token: int
    score: float
    """Log-probability plus the position's noise, up to a constant; greedy: the logit."""


def ranked(
    row: ScoreRow,
    params: SamplingParams,
    key: RngKey,
    position: int,
    history: Sequence[int] = (),
    *,
    num: int,
) -> list[RankedToken]:
    """Return the tokens with the best scores, of which `sample` draws the first.

    Where that one is wrong, the others are the likeliest in this order: the target draws with the
    same noise.

    Args:
        row: as in `sample`, or only some of the best tokens.
        params: as in `sample`.
        key: as in `sample`.
        position: as in `sample`.
        history: as in `sample`.
        num: tokens to return at most.

    Raises:
        ValueError: as in `sample`.
    """
    ids, logits = _shaped(row, params, history, position)
    if params.is_greedy:
        kept = np.arange(len(logits)) if ids is None else ids
        scores = logits.astype(np.float64)
    else:
        kept, scores = _kept(ids, logits, params)
        scores = scores - np.log(-np.log(uniforms_at(key, position, Purpose.SAMPLE, kept)))
    order = np.argsort(-scores, kind="stable")[:num]
    return [RankedToken(int(kept[place]), float(scores[place])) for place in order]


def truncate(whole: Distribution, num: int) -> Distribution:
    """Return the distribution on its `num` best tokens, of ties the lowest ids, renormalized."""
    if len(whole.ids) <= num:
        return whole
    edge = torch.from_numpy(whole.probs).topk(num).values[-1].item()
    ids, probs = _at_least(whole.ids, whole.probs, edge, num)
    return Distribution(ids=ids, probs=probs / probs.sum())


def _shaped(
    row: ScoreRow, params: SamplingParams, history: Sequence[int], position: int
) -> tuple[Ints | None, NDArray[np.float32]]:
    """Return ids (ascending; None: all) and checked logits as temperature applies to them."""
    logits: NDArray[np.float32] = row.logits.detach().to("cpu", torch.float32).numpy()
    ids: Ints | None = None
    if row.ids is not None:
        ids = row.ids.to("cpu", torch.int64).numpy()
        if (ids[1:] <= ids[:-1]).any():
            order = np.argsort(ids, kind="stable")
            ids, logits = ids[order], logits[order]
    if not np.isfinite(logits.max()):
        raise ValueError(f"the best of {len(logits)} logits is {logits.max()}: {_REMEDY}")
    if not params.shapes_logits:
        return ids, logits
    if ids is not None:
        raise ValueError("a bias or a penalty needs the logits of the whole vocabulary")
    return None, shaped(logits, params, history, position)


def _only_one(row: ScoreRow) -> int:
    """Return the one candidate that was gathered: greedy decoding's hot path."""
    assert row.ids is not None
    best = float(row.logits[0])
    if not np.isfinite(best):
        raise ValueError(f"the best logit is {best}: {_REMEDY}")
    return int(row.ids[0])


def _best(ids: Ints | None, logits: NDArray[np.float32]) -> int:
    best = int(logits.argmax())  # the first of equals, hence the lowest id
    return best if ids is None else int(ids[best])


def _kept(
    ids: Ints | None, logits: NDArray[np.float32], params: SamplingParams
) -> tuple[Ints, Floats]:
    """Return the ids that survive top-k, top-p and min-p, ascending, with their scaled logits."""
    if 0 < params.top_k < len(logits):
        kth = torch.from_numpy(logits).topk(params.top_k).values[-1].item()
        ids, logits = _at_least(ids, logits, kth, params.top_k)
    scaled = logits.astype(np.float64)
    scaled /= params.temperature
    if params.top_p < 1:
        num, edge = _nucleus(scaled, params.top_p)
        ids, scaled = _at_least(ids, scaled, edge, num)
    if params.min_p > 0:
        strong = np.exp(scaled - scaled.max()) >= params.min_p
        ids = np.flatnonzero(strong) if ids is None else ids[strong]
        scaled = scaled[strong]
    return (np.arange(len(scaled)) if ids is None else ids), scaled


def _at_least(ids: Ints | None, values: _Values, edge: float, num: int) -> tuple[Ints, _Values]:
    """Keep the `num` values not below `edge`; of those equal to it, the first ones."""
    kept = np.flatnonzero(values >= edge)
    surplus = len(kept) - num
    if surplus > 0:
        ties = np.flatnonzero(values[kept] == edge)
        kept = np.delete(kept, ties[len(ties) - surplus :])
    return (kept if ids is None else ids[kept]), values[kept]


def _nucleus(scaled: Floats, top_p: float) -> tuple[int, float]:
    """Return the size of the smallest set of best tokens with mass top_p, and its least logit.

    Sorting a vocabulary costs forty times as much as finding its 256 best, which nearly always
    hold the nucleus; where they do not, more are found.
    """
    best = scaled.max()
    wanted = np.exp(scaled - best).sum() * top_p
    tensor = torch.from_numpy(scaled)
    looked_at = _FIRST_TOP
    while True:
        looked_at = min(looked_at, len(scaled))
        values = tensor.topk(looked_at).values.numpy()
        mass = np.cumsum(np.exp(values - best))
        if mass[-1] >= wanted or looked_at == len(scaled):
            num = min(int(np.searchsorted(mass, wanted, side="left")) + 1, looked_at)
            return num, float(values[num - 1])
        looked_at *= _WIDEN


def _gumbel_argmax(scaled: Floats, numbers: Floats) -> int:
    """Return where scaled - log(-log(numbers)) is largest, the first of equals; eats `numbers`."""
    np.log(numbers, out=numbers)
    np.negative(numbers, out=numbers)
    np.log(numbers, out=numbers)
    return int(np.subtract(scaled, numbers, out=numbers).argmax())
