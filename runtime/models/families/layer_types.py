"""Read `layer_types` of a config.json: which layers attend over a window."""

from collections.abc import Sequence

from runtime.models.families.fields import Fields

FULL, SLIDING = "full_attention", "sliding_attention"


def read_layer_types(fields: Fields, num_layers: int) -> tuple[object, ...]:
    """Return the listed type of each layer; empty if the configuration does not list them.

    Raises:
        ValueError: it is not a list with an entry for each layer.
    """
    types = fields.get("layer_types")
    if types is None:
        return ()
    if not isinstance(types, list) or len(types) != num_layers:
        raise ValueError(f"layer_types is {types!r}: expected one entry for each of {num_layers}")
    return tuple(types)


def reject_windows(types: Sequence[object]) -> None:
    """Reject layers that attend over a window.

    Raises:
        ValueError: there are such layers.
    """
    if any(name != FULL for name in types):
        raise ValueError(
            "sliding windows on some layers only (use_sliding_window, layer_types) are not "
            f"supported: the layers are {list(types)}"
        )


def qwen_layer_types(fields: Fields, num_layers: int) -> tuple[object, ...]:
    """Return the type of each layer, as transformers derives it for qwen2 and qwen3.

    Raises:
        ValueError: max_window_layers is not a number of layers.
    """
    listed = read_layer_types(fields, num_layers)
    if listed:
        return listed
    given = fields.get("sliding_window")
    has_window = given is not None or not fields.states("sliding_window")
    first = 28 if fields.get("max_window_layers") is None else fields.get("max_window_layers")
    if not isinstance(first, int) or first < 0:
        raise ValueError(f"max_window_layers is {first!r}: expected a number of layers")
    if not (fields.flag("use_sliding_window") and has_window):
        first = num_layers
    return tuple(FULL if layer < first else SLIDING for layer in range(num_layers))
