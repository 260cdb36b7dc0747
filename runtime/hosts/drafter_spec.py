"""What drafts for a target, and where: one of five cases, a plain value that travels to any node.

`cluster` plans one of them from the name of a drafter. The leader's process builds the inline ones,
and ranks of their own run the others.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

from runtime.drafters.lookups.lookup_settings import LookupSettings
from runtime.hosts.rank_settings import ModelSettings


@dataclass(frozen=True, slots=True)
class NoDrafterSpec:
    """Nothing drafts: the target decodes alone."""

    num_ranks: ClassVar[int] = 0


@dataclass(frozen=True, slots=True)
class LookupDrafterSpec:
    """Look-ups in the leader's thread, without a model."""

    lookups: LookupSettings
    num_ranks: ClassVar[int] = 0


@dataclass(frozen=True, slots=True)
class InlineModelDrafterSpec:
    """A model in the leader's process."""

    model: ModelSettings
    has_thread: bool = False
    """Whether it drafts in a thread of its own, during the target's forwards; else between them."""
    num_ranks: ClassVar[int] = 0


@dataclass(frozen=True, slots=True)
class ModelDrafterSpec:
    """A model on its own ranks."""

    model: ModelSettings
    num_ranks: int = 1


@dataclass(frozen=True, slots=True)
class NgramDrafterSpec:
    """Copies from prompt and output, in its own actor."""

    vocab_size: int
    """The target's."""
    num_ranks: ClassVar[int] = 1


InlineDrafterSpec = NoDrafterSpec | LookupDrafterSpec | InlineModelDrafterSpec
"""Drafters in the leader's process."""
RankedDrafterSpec = ModelDrafterSpec | NgramDrafterSpec
"""Drafters with processes of their own."""
DrafterSpec = InlineDrafterSpec | RankedDrafterSpec


def model_of(drafter: DrafterSpec) -> ModelSettings | None:
    """Return the model that a drafter runs, if it runs one."""
    match drafter:
        case ModelDrafterSpec(model) | InlineModelDrafterSpec(model):
            return model
        case _:
            return None


def with_model(
    drafter: DrafterSpec, change: Callable[[ModelSettings], ModelSettings]
) -> DrafterSpec:
    """Return the drafter with its model changed; a drafter without a model stays as it is."""
    match drafter:
        case ModelDrafterSpec(model) | InlineModelDrafterSpec(model):
            return replace(drafter, model=change(model))
        case _:
            return drafter
