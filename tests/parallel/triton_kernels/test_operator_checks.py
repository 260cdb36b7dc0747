"""What a launch would misread is rejected with the reason, before anything is launched."""

import pytest
import torch
from torch import Tensor

from parallel.device_kernels.step_kernels import AttentionRows, Workspace
from parallel.triton_kernels.kernel_set import TritonKernels
from tests.support.kernel_device import DEVICE

KERNELS = TritonKernels()


def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.zeros(*shape, dtype=dtype, device=DEVICE)


def attend(
    *,
    query: Tensor | None = None,
    keys: Tensor | None = None,
    tiles: Tensor | None = None,
    num_rows: int = 2,
    cap: float | None = None,
    workspace: Workspace | None = None,
) -> None:
    query = zeros(2, 4, 64) if query is None else query
    keys = zeros(2, 32, 64) if keys is None else keys
    tiles = zeros(1, 3, dtype=torch.int32) if tiles is None else tiles
    rows = AttentionRows(
        tiles=tiles,
        ranges=zeros(num_rows, 3, dtype=torch.int32),
        bits=zeros(num_rows, 1, dtype=torch.int32),
        trees=zeros(1, dtype=torch.int32),
        tables=zeros(1, 2, dtype=torch.int32),
        page_size=16,
    )
    out = zeros(2, 4, 64)
    KERNELS.attend(query, keys, keys, rows, out, scale=1.0, cap=cap, workspace=workspace)


def test_what_fits_is_accepted() -> None:
    attend()


def test_tensors_of_two_dtypes_are_refused() -> None:
    with pytest.raises(ValueError, match="one dtype of float32, bfloat16 and float16"):
        attend(keys=zeros(2, 32, 64, dtype=torch.bfloat16))
    with pytest.raises(ValueError, match="one dtype"):
        attend(query=zeros(2, 4, 64, dtype=torch.float64))


def test_a_plan_of_another_type_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`tiles` is torch.int64"):
        attend(tiles=zeros(1, 3, dtype=torch.int64))


def test_heads_that_are_not_contiguous_are_refused() -> None:
    with pytest.raises(ValueError, match="`query` has strides"):
        attend(query=zeros(2, 64, 4).transpose(1, 2))


def test_heads_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="4 query heads do not share 3 KV heads"):
        attend(keys=zeros(3, 32, 64))


def test_plans_of_other_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="rows are not 2 each"):
        attend(num_rows=3)


def test_a_cap_that_is_not_positive_is_refused() -> None:
    with pytest.raises(ValueError, match="`cap` is 0"):
        attend(cap=0.0)


def test_a_workspace_that_does_not_cover_the_pages_is_refused() -> None:
    none = Workspace(values=zeros(0, 2, 4, 64), stats=zeros(0, 2, 4, 2))
    with pytest.raises(ValueError, match="0 splits do not cover 2 pages of 16"):
        attend(workspace=none)


def test_tensors_on_two_devices_are_refused() -> None:
    with pytest.raises(ValueError, match="on cpu and meta"):
        KERNELS.gate(torch.zeros(2, 8), torch.zeros(2, 4, device="meta"), gelu=False)
