"""The tokens that a drafter's reduced head can draft (FR-Spec, Zhao et al., arXiv 2502.14856).

Tokens outside the head have draft probability 0, which stays exact: the verifier only sees drafts.
"""

import numpy as np
from numpy.typing import NDArray


def choose_head_tokens(counts: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Return the `size` most frequent tokens, in ascending order.

    Tokens never seen follow in the order of their ids: tokenizers number frequent pieces first.

    Args:
        counts: [vocab_size], how often each token was seen.
        size: tokens of the head.

    Raises:
        ValueError: the size is not between 1 and the vocabulary's.
    """
    if not 1 <= size <= len(counts):
        raise ValueError(f"a head of {size} tokens: choose between 1 and {len(counts)}")
    order = np.argsort(-counts, kind="stable")
    return np.sort(order[:size]).astype(np.int64)


def coverage(counts: NDArray[np.int64], head_tokens: NDArray[np.int64]) -> float:
    """Return the share of the counted tokens that the head can draft; 1 if none were counted."""
    total = int(counts.sum())
    return float(counts[head_tokens].sum() / total) if total else 1.0
