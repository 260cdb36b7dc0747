"""Llama 3's parameters come back from the divisors of a GGUF file, frequency by frequency."""

import json

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from runtime.models.gguf_rope import recover_llama3


def frequencies(head_dim: int, theta: float, rope: dict[str, object]) -> torch.Tensor:
    """Return the frequencies of transformers."""
    config = LlamaConfig(
        head_dim=head_dim, rope_parameters=json.loads(json.dumps(rope | {"rope_theta": theta}))
    )
    found: torch.Tensor = LlamaRotaryEmbedding(config).original_inv_freq
    return found


def divisors(head_dim: int, theta: float, rope: dict[str, object]) -> NDArray[np.float32]:
    plain = frequencies(head_dim, theta, {"rope_type": "default"})
    quotient: NDArray[np.float32] = (plain / frequencies(head_dim, theta, rope)).numpy()
    return quotient


def llama3(factor: float, original: int, low: float = 1.0, high: float = 4.0) -> dict[str, object]:
    return {
        "rope_type": "llama3",
        "factor": factor,
        "original_max_position_embeddings": original,
        "low_freq_factor": low,
        "high_freq_factor": high,
    }


@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_published_models_have_their_own_parameters_again(head_dim: int, factor: float) -> None:
    rope = llama3(factor, 8192)
    assert recover_llama3(divisors(head_dim, 5e5, rope), 5e5, head_dim) == rope


@pytest.mark.parametrize("head_dim", [8, 16, 32])
@pytest.mark.parametrize("theta", [1e4, 5e5])
@pytest.mark.parametrize("original", [12, 64, 500, 8192])
@pytest.mark.parametrize(("low", "high"), [(1.0, 4.0), (2.0, 5.0), (1.0, 32.0)])
def test_other_parameters_give_the_same_frequencies(
    head_dim: int, theta: float, original: int, low: float, high: float
) -> None:
    rope = llama3(4.0, original, low, high)
    found = recover_llama3(divisors(head_dim, theta, rope), theta, head_dim)
    torch.testing.assert_close(
        frequencies(head_dim, theta, found),
        frequencies(head_dim, theta, rope),
        rtol=5e-6,
        atol=0,
    )


@pytest.mark.parametrize(
    "values",
    [
        [1, 1, 3, 2, 8, 8, 8, 8],
        [1, 0.5, 8, 8, 8, 8, 8, 8],
        [1, 1, 8, 8],
        [1, 1, 1, 1, 1, 8, float("nan"), 8],
        [2, 2, 2, 2, 2, 2, 2, 3],
        [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7],  # as in longrope
    ],
)
def test_other_divisors_are_rejected(values: list[float]) -> None:
    with pytest.raises(ValueError, match=r"rope_freqs.weight .* not those of Llama 3's scaling"):
        recover_llama3(np.array(values, dtype=np.float32), 1e4, 16)
