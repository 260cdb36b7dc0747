"""The supported model families: every module of this room that defines `FAMILY`.

Modules are found by listing the room, so a new family needs no entry here.
"""

from collections.abc import Iterator, Mapping

from runtime.models import families
from runtime.models.families.family import GgufFormat, ModelFamily
from runtime.modules import modules_of


def _found() -> Iterator[ModelFamily]:
    for module in modules_of(families):
        family = getattr(module, "FAMILY", None)
        if isinstance(family, ModelFamily):
            yield family


FAMILIES: Mapping[str, ModelFamily] = {family.model_type: family for family in _found()}
"""Families by the model type of config.json."""
GGUF_FAMILIES: Mapping[str, tuple[ModelFamily, GgufFormat]] = {
    family.gguf.architecture: (family, family.gguf)
    for family in FAMILIES.values()
    if family.gguf is not None
}
"""Families by the architecture of GGUF files."""
_UNSUPPORTED = {
    kind: why for family in FAMILIES.values() for kind, why in family.unsupported.items()
}


def family_of(model_type: object) -> ModelFamily:
    """Return the family of a model type.

    Raises:
        ValueError: it is not supported.
    """
    if isinstance(model_type, str) and model_type in FAMILIES:
        return FAMILIES[model_type]
    reason = _UNSUPPORTED.get(model_type) if isinstance(model_type, str) else None
    known = f"these are: {', '.join(FAMILIES)}"
    raise ValueError(f"architecture {model_type!r} is not supported; {reason or known}")


def gguf_family(architecture: object) -> tuple[ModelFamily, GgufFormat]:
    """Return the family of a GGUF file's architecture, and its format.

    Raises:
        ValueError: it is not supported.
    """
    if isinstance(architecture, str) and architecture in GGUF_FAMILIES:
        return GGUF_FAMILIES[architecture]
    raise ValueError(
        f"architecture {architecture!r} is not supported; these are: {', '.join(GGUF_FAMILIES)}"
    )
