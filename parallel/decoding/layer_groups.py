"""Which layers' attention blocks run at the same time (EasySpec, Wu et al., arXiv 2502.02493)."""


def layer_groups(num_layers: int, width: int, first: int = 0) -> list[range]:
    """Return the layers in groups that run one after the other.

    Args:
        num_layers: of the model.
        width: layers of a group.
        first: layers before this one are groups of their own.
    """
    alone = [range(layer, layer + 1) for layer in range(min(first, num_layers))]
    together = [
        range(start, min(start + width, num_layers)) for start in range(first, num_layers, width)
    ]
    return alone + together
