import pytest
import torch

from parallel.kernels.packed_matrix import pack
from parallel.weights.stored_matrix import as_float
from parallel.weights.weight_format import WeightFormat
from tests.support.stored_models import FORMS, stored


@pytest.mark.parametrize(("kind", "options"), FORMS)
@pytest.mark.parametrize("num_rows", [1, 16, 37])
def test_rows_are_read_back_as_they_were(
    kind: WeightFormat, options: dict[str, bool], num_rows: int
) -> None:
    matrix = stored(torch.randn(num_rows, 96), kind, **options)
    packed = pack(matrix)
    ids = torch.tensor([0, num_rows - 1, num_rows // 2, 0])
    assert torch.equal(packed.rows(ids), as_float(matrix).float()[ids])


@pytest.mark.parametrize("has_mins", [False, True])
def test_a_packed_weight_takes_the_memory_of_the_stored_one(has_mins: bool) -> None:
    for kind, bits in ((WeightFormat.INT4, 4), (WeightFormat.INT8, 8)):
        packed = pack(stored(torch.randn(64, 128), kind, has_mins=has_mins))
        per_group = 32 * bits // 8 + (4 if has_mins else 2)
        assert packed.data.nbytes == 64 * 4 * per_group


def test_halves_of_groups_take_two_wide_scales() -> None:
    packed = pack(stored(torch.randn(64, 128), WeightFormat.INT8, has_halves=True))
    assert packed.has_half_groups
    assert packed.data.nbytes == 64 * 4 * (32 + 2 * 4)
