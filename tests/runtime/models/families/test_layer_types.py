"""Layer types are read as transformers reads them."""

import pytest

from runtime.models.families.fields import Fields
from runtime.models.families.layer_types import (
    FULL,
    SLIDING,
    qwen_layer_types,
    read_layer_types,
    reject_windows,
)


def test_listed_types_are_taken_as_they_are() -> None:
    assert read_layer_types(Fields({}), 2) == ()
    assert read_layer_types(Fields({"layer_types": [FULL, SLIDING]}), 2) == (FULL, SLIDING)
    with pytest.raises(ValueError, match="one entry for each of 3"):
        read_layer_types(Fields({"layer_types": [FULL, SLIDING]}), 3)


def test_windows_are_rejected_with_the_layers() -> None:
    reject_windows([FULL, FULL])
    with pytest.raises(ValueError, match=r"the layers are \['full_attention', 'sliding_attention'"):
        reject_windows([FULL, SLIDING])


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, (FULL, FULL)),
        ({"use_sliding_window": True, "max_window_layers": 1}, (FULL, SLIDING)),
        ({"use_sliding_window": True}, (FULL, FULL)),
        ({"use_sliding_window": True, "sliding_window": None, "max_window_layers": 0}, (FULL,) * 2),
        ({"layer_types": [SLIDING, SLIDING]}, (SLIDING, SLIDING)),
    ],
)
def test_qwen_layers_slide_from_the_first_window_layer_on(
    config: dict[str, object], expected: tuple[str, ...]
) -> None:
    assert qwen_layer_types(Fields(config), 2) == expected


def test_a_first_window_layer_must_be_a_number() -> None:
    with pytest.raises(ValueError, match="max_window_layers is -1"):
        qwen_layer_types(Fields({"max_window_layers": -1}), 2)
