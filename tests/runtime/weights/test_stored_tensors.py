"""Matrices in integer codes return from their file, or are refused by name."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from parallel.weights.stored_matrix import StoredMatrix, as_float
from parallel.weights.weight_format import WeightFormat
from runtime.errors import ConfigError
from runtime.models.checkpoint_files import read_checkpoint
from runtime.weights.checkpoint_source import CheckpointSource
from runtime.weights.stored_tensors import (
    FILE_METADATA,
    STORED_FILE,
    check_quantization,
    part_tensors,
)
from tests.support.stored_checkpoints import (
    edit_config,
    equal_bits,
    save_stored,
    stored_as,
    wide_model,
)
from tests.support.stored_matrices import random_matrix
from tests.support.tiny_transformer import CPU

UP = "model.layers.0.mlp.up_proj.weight"
Tensors = dict[str, Tensor]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return save_stored(tmp_path / "model", WeightFormat.INT4)


def edit(directory: Path, change: Callable[[Tensors], object], **metadata: str) -> None:
    file = directory / STORED_FILE
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, dict(FILE_METADATA) | metadata)


@pytest.mark.parametrize("form", [WeightFormat.INT8, WeightFormat.INT4])
def test_what_is_read_is_what_was_written(form: WeightFormat, tmp_path: Path) -> None:
    model = wide_model()
    directory = save_stored(tmp_path / "model", form, model)
    files = read_checkpoint(directory)
    source = CheckpointSource(directory, form.value, CPU, tensors=files.tensors)
    for name, tensor in model.reference.state_dict().items():
        written = stored_as(tensor, form)
        if isinstance(written, StoredMatrix):
            found = source.read_matrix(name, 0, 0, written.num_rows)
            assert isinstance(found, StoredMatrix)
            assert (found.format, found.mins is None) == (form, form is WeightFormat.INT8)
            assert torch.equal(found.codes, written.codes)
            assert torch.equal(found.dequantized(), written.dequantized())
            assert files.tensors[name].num_bytes == written.num_bytes
        else:
            assert torch.equal(source.read(name), written)
    assert files.tensors.keys() == model.reference.state_dict().keys()


@pytest.mark.parametrize("weights", ["int8", "float32"])
def test_scales_of_half_groups_are_read_as_they_were_written(weights: str, tmp_path: Path) -> None:
    model = wide_model()
    directory = save_stored(tmp_path / "model", WeightFormat.INT8, model)
    written = random_matrix(52, 64, WeightFormat.INT8, group_size=16)
    parts = part_tensors(UP, written)
    assert parts.keys() == {f"{UP}.codes", f"{UP}.half_scales"}
    edit(directory, lambda tensors: (tensors.pop(f"{UP}.scales"), tensors.update(parts)))
    files = read_checkpoint(directory)
    assert files.tensors[UP].num_bytes == written.num_bytes
    source = CheckpointSource(directory, weights, CPU, tensors=files.tensors)
    whole = written.dequantized()
    for dim, first, stop in ((0, 0, 52), (0, 3, 17), (1, 32, 64), (1, 16, 48), (1, 7, 45)):
        part = source.read_matrix(UP, dim, first, stop)
        assert equal_bits(as_float(part), whole.narrow(dim, first, stop - first).contiguous())
        is_whole = weights == "int8" and (dim == 0 or first % 32 == 0)
        assert isinstance(part, StoredMatrix) is is_whole


def half_scales(scales: Tensor, *, keep: bool = False) -> Callable[[Tensors], object]:
    """Store int8 codes with scales of half groups, and perhaps those of the matrix before."""

    def change(tensors: Tensors) -> None:
        if not keep:
            del tensors[f"{UP}.scales"], tensors[f"{UP}.mins"]
        codes = torch.ones(52, 64, dtype=torch.uint8)
        tensors.update({f"{UP}.codes": codes, f"{UP}.half_scales": scales})

    return change


def setting(name: str, value: Tensor) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.update({name: value})


def dropping(*names: str) -> Callable[[Tensors], object]:
    return lambda tensors: [tensors.pop(name) for name in names]


DAMAGES: dict[str, tuple[Callable[[Tensors], object], str]] = {
    "no scales": (dropping(f"{UP}.scales"), rf"has no {UP}.scales, but other parts"),
    "no codes": (dropping(f"{UP}.codes"), rf"has no {UP}.codes, but other parts"),
    "minima alone": (
        dropping(f"{UP}.codes", f"{UP}.scales"),
        rf"has no {UP}.codes, but other parts",
    ),
    "scales of fewer groups": (
        setting(f"{UP}.scales", torch.ones(52, 1).half()),
        rf"the parts of {UP} do not fit .*codes U8 \[52, 32\], mins F16 .*, scales F16 \[52, 1\]",
    ),
    "scales of fewer rows": (
        setting(f"{UP}.scales", torch.ones(51, 2).half()),
        rf"the parts of {UP} do not fit",
    ),
    "codes in bits": (
        setting(f"{UP}.codes", torch.ones(52, 24, dtype=torch.uint8)),
        rf"the parts of {UP} do not fit",
    ),
    "codes in int8": (
        setting(f"{UP}.codes", torch.ones(52, 32, dtype=torch.int8)),
        rf"the parts of {UP} do not fit .*codes I8",
    ),
    "codes in a row": (
        setting(f"{UP}.codes", torch.ones(52 * 32, dtype=torch.uint8)),
        rf"the parts of {UP} do not fit",
    ),
    "scales in bfloat16": (
        setting(f"{UP}.scales", torch.ones(52, 2).bfloat16()),
        rf"the parts of {UP} do not fit",
    ),
    "minima of another dtype": (
        setting(f"{UP}.mins", torch.ones(52, 2)),
        rf"the parts of {UP} do not fit",
    ),
    "minima of another shape": (
        setting(f"{UP}.mins", torch.ones(52, 1).half()),
        rf"the parts of {UP} do not fit",
    ),
    "scales of too few half groups": (
        half_scales(torch.ones(52, 2)),
        rf"the parts of {UP} do not fit .*half_scales F32 \[52, 2\]",
    ),
    "scales of groups and of half groups": (
        half_scales(torch.ones(52, 4), keep=True),
        rf"the parts of {UP} do not fit .*half_scales .*mins .*scales",
    ),
    "numbers beside codes": (setting(UP, torch.ones(52, 64)), rf"holds {UP} twice"),
    "another shape": (
        lambda t: t.update({f"{UP}.{p}": t[f"{UP}.{p}"][:40] for p in ("codes", "scales", "mins")}),
        rf"{UP} of .* has the shape \[40, 64\], its configuration asks for \[52, 64\]",
    ),
    "a norm in codes": (
        lambda t: (
            t.update(
                {
                    "model.norm.weight.codes": torch.ones((1, 64), dtype=torch.uint8),
                    "model.norm.weight.scales": torch.ones(1, 2).half(),
                }
            )
            or t.pop("model.norm.weight")
        ),
        r"model.norm.weight of .* has the shape \[1, 64\]",
    ),
    "a matrix that the model lacks": (
        lambda t: t.update(
            {
                "model.layers.9.mlp.up_proj.weight.codes": torch.ones((1, 64), dtype=torch.uint8),
                "model.layers.9.mlp.up_proj.weight.scales": torch.ones(1, 2).half(),
            }
        ),
        "has the tensor model.layers.9.mlp.up_proj.weight, which the model .* does not",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_parts_that_do_not_belong_together_are_rejected(name: str, directory: Path) -> None:
    change, message = DAMAGES[name]
    edit(directory, change)
    with pytest.raises(ConfigError, match=message):
        read_checkpoint(directory)


@pytest.mark.parametrize("part", ["scales", "mins"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_scales_and_minima_that_are_not_finite_are_rejected(
    part: str, value: float, directory: Path
) -> None:
    edit(directory, lambda tensors: tensors[f"{UP}.{part}"][3, 1].fill_(value))
    for weights in ("float32", "int4", "int8"):
        source = CheckpointSource(directory, weights, CPU)
        with pytest.raises(ConfigError, match=rf"{UP} in .* has scales that are not finite"):
            source.read_matrix(UP, 0, 0, 52)
        source.read_matrix(UP, 0, 4, 52)  # the other rows are whole


def test_scales_whose_numbers_overflow_are_rejected(directory: Path) -> None:
    scales = torch.ones(52, 2)
    scales[0, 0] = 3e38
    parts = {f"{UP}.scales": scales, f"{UP}.mins": torch.zeros(52, 2)}
    edit(directory, lambda tensors: tensors.update(parts))
    with pytest.raises(ConfigError, match="scales that are not finite"):
        CheckpointSource(directory, "float32", CPU).read(UP)


def test_another_version_of_a_file_is_rejected(directory: Path) -> None:
    edit(directory, lambda _: None, paceline_weights="2")
    with pytest.raises(ConfigError, match=r"version 2 of the layout, .* reads 1: convert"):
        read_checkpoint(directory)


def test_a_layout_without_a_version_is_rejected(directory: Path) -> None:
    file = directory / STORED_FILE
    save_file(load_file(file), file, {"format": "pt"})
    with pytest.raises(ConfigError, match=r"quantized weights in a layout that is not known"):
        read_checkpoint(directory)


def test_a_configuration_that_states_no_layout_is_rejected(directory: Path) -> None:
    edit_config(directory, quantization_config=None)
    with pytest.raises(ConfigError, match=r"in integer codes, which .*config.json does not state"):
        read_checkpoint(directory)


def test_a_configuration_that_states_a_layout_of_plain_weights_is_rejected(tmp_path: Path) -> None:
    directory = save_stored(tmp_path / "model", None)
    edit_config(directory, quantization_config={"quant_method": "paceline", "version": 1})
    with pytest.raises(ConfigError, match=r"states quantized weights .* but no matrix"):
        read_checkpoint(directory)


def test_weights_in_both_files_are_rejected(directory: Path) -> None:
    save_file({"x": torch.ones(1)}, directory / "model.safetensors")
    with pytest.raises(ConfigError, match=r"in paceline.safetensors and in model.safetensors"):
        read_checkpoint(directory)


@pytest.mark.parametrize("version", [2, "1", None])
def test_another_version_in_the_configuration_is_rejected(version: object) -> None:
    with pytest.raises(ValueError, match=r"this version of paceline reads .*'version': 1"):
        check_quantization({"quant_method": "paceline", "version": version})


def test_unknown_settings_of_the_layout_are_rejected() -> None:
    with pytest.raises(ValueError, match="'bits': 3"):
        check_quantization({"quant_method": "paceline", "version": 1, "bits": 3})
    with pytest.raises(ValueError, match=r"quantized weights \(quantization_config\)"):
        check_quantization("paceline")
