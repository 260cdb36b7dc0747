"""Tensors are read as their file's numbers, and matrices in the format in which they are held."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from parallel.weights.quantize import relative_error
from parallel.weights.stored_matrix import StoredMatrix, as_float, num_inputs
from parallel.weights.weight_format import WeightFormat
from runtime.errors import ConfigError
from runtime.models.transformers_model import load_transformers
from runtime.models.weights import load_decoder
from runtime.weights.checkpoint_source import CheckpointSource
from runtime.weights.weight_choice import dtype_of
from tests.support.stored_checkpoints import equal_bits, save_stored, wide_model
from tests.support.tiny_transformer import CPU, RankThread, on_ranks, score, tokens

PROMPT = tokens(20)
FORMATS = [None, *WeightFormat]


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> dict[WeightFormat | None, Path]:
    """The same model with its matrices in every format."""
    folder = tmp_path_factory.mktemp("stored")
    model = wide_model()
    return {form: save_stored(folder / str(form), form, model) for form in FORMATS}


def numbers(directory: Path) -> dict[str, Tensor]:
    """Return what a directory's files stand for, in float32."""
    tensors: dict[str, Tensor] = load_transformers(directory, torch.float32).state_dict()
    return tensors


@pytest.mark.parametrize("form", FORMATS)
def test_tensors_are_read_as_the_numbers_of_their_file(
    form: WeightFormat | None, stored: dict[WeightFormat | None, Path]
) -> None:
    for weights in ("auto", "float32", "int8", "int4"):
        source = CheckpointSource(stored[form], weights, CPU)
        for name, expected in numbers(stored[form]).items():
            assert equal_bits(source.read(name), expected)
            if expected.dim() == 2:
                assert equal_bits(source.read_slice(name, 0, 3, 9), expected[3:9])
                assert equal_bits(source.read_slice(name, 1, 7, 45), expected[:, 7:45])


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("held", FORMATS)
def test_matrices_are_held_in_the_format_asked_for(
    form: WeightFormat | None,
    held: WeightFormat | None,
    stored: dict[WeightFormat | None, Path],
) -> None:
    source = CheckpointSource(stored[form], held or "auto", CPU)
    for name, values in numbers(stored[form]).items():
        if values.dim() == 1:
            continue
        matrix = source.read_matrix(name, 0, 0, values.shape[0])
        wanted = held or form or WeightFormat.FLOAT32
        if not wanted.is_grouped:
            assert isinstance(matrix, Tensor)
            assert equal_bits(matrix, values.to(dtype_of(wanted)))
        elif values.shape[1] % 32:
            assert isinstance(matrix, Tensor)
            assert equal_bits(matrix.float(), values)
        else:
            assert isinstance(matrix, StoredMatrix)
            assert matrix.format is wanted
            assert relative_error(matrix, values) < (0.01 if wanted is WeightFormat.INT8 else 0.1)
            if form in (wanted, WeightFormat.INT4):  # also in int8 these are exact
                assert equal_bits(matrix.dequantized(), values)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("held", FORMATS)
def test_parts_of_a_matrix_have_the_numbers_of_the_whole(
    form: WeightFormat | None,
    held: WeightFormat | None,
    stored: dict[WeightFormat | None, Path],
) -> None:
    source = CheckpointSource(stored[form], held or "auto", CPU)
    for name in ("lm_head.weight", "model.layers.1.mlp.down_proj.weight"):
        whole = source.read_matrix(name, 0, 0, 64)
        columns = num_inputs(whole)
        for dim, first, stop in ((0, 5, 17), (1, 0, 32), (1, 32, columns), (1, 7, 45), (1, 40, 52)):
            part = source.read_matrix(name, dim, first, stop)
            if dim == 0:
                assert equal_bits(as_float(part), as_float(whole)[first:stop])
            else:
                expected = as_float(whole)[:, first:stop]
                assert equal_bits(as_float(part)[:64], expected)
            aligned = dim == 0 or (first % 32 == 0 and stop % 32 == 0)
            assert isinstance(part, StoredMatrix) is (isinstance(whole, StoredMatrix) and aligned)


def test_auto_on_a_cpu_holds_what_the_file_has(stored: dict[WeightFormat | None, Path]) -> None:
    source = CheckpointSource(stored[WeightFormat.INT4], "auto", CPU)
    assert isinstance(source.read_matrix("lm_head.weight", 0, 0, 8), StoredMatrix)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("num_ranks", [1, 2])
def test_stored_models_score_as_transformers_does(
    form: WeightFormat | None, num_ranks: int, stored: dict[WeightFormat | None, Path]
) -> None:
    def one(group: RankThread) -> Tensor:
        return score(load_decoder(stored[form], group, weights="float32", device=CPU), PROMPT)

    reference = load_transformers(stored[form], torch.float32).eval()
    with torch.inference_mode():
        expected = reference(torch.tensor([PROMPT])).logits[0]
    logits = torch.cat(on_ranks(num_ranks, one), dim=1)
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)


def test_weights_that_do_not_fit_integer_codes_are_rejected_by_name(
    stored: dict[WeightFormat | None, Path], tmp_path: Path
) -> None:
    directory = Path(shutil.copytree(stored[None], tmp_path / "model"))
    weights = load_file(directory / "model.safetensors")
    weights["lm_head.weight"][3] = 7e4
    save_file(weights, directory / "model.safetensors")
    with pytest.raises(ConfigError, match=r"lm_head.weight .* 7e\+04, .* not fit int4: use bfl"):
        CheckpointSource(directory, "int4", CPU).read_matrix("lm_head.weight", 0, 0, 8)
