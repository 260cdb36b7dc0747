import pytest
import torch

from parallel.weights.weight_format import WeightFormat
from runtime.errors import ConfigError
from runtime.weights.weight_choice import WEIGHTS, WeightChoice, choose_weights


@pytest.mark.parametrize("weights", WEIGHTS)
def test_activations_on_a_cpu_are_float32(weights: str) -> None:
    assert choose_weights(weights, "cpu").activations == torch.float32


@pytest.mark.parametrize("form", WeightFormat)
def test_a_named_format_is_that_of_the_matrices(form: WeightFormat) -> None:
    assert choose_weights(form.value, "cpu").matrices is form


@pytest.mark.parametrize(
    ("weights", "form"),
    [
        ("auto", WeightFormat.BFLOAT16),
        ("bfloat16", WeightFormat.BFLOAT16),
        ("float16", WeightFormat.FLOAT16),
        ("float32", WeightFormat.FLOAT32),
    ],
)
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_all_numbers_on_cuda_have_one_dtype(weights: str, form: WeightFormat, device: str) -> None:
    expected = WeightChoice(matrices=form, activations=getattr(torch, form))
    assert choose_weights(weights, device) == expected


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_integer_codes_on_cuda_are_rejected(weights: str) -> None:
    with pytest.raises(ConfigError, match=f"`weights` is {weights}, which runs on CPUs"):
        choose_weights(weights, "cuda")


def test_an_unknown_value_is_rejected_with_the_choices() -> None:
    with pytest.raises(ConfigError, match="`weights` is 'int2': choose one of auto, float32, bf"):
        choose_weights("int2", "cpu")
