"""Builds the drafter in the leader's process, if one is planned."""

from dataclasses import dataclass

from parallel.group import SoloGroup
from parallel.messages import Hello
from runtime.constraints.compiler import Constraints
from runtime.drafters.drafting import Drafter, introduction
from runtime.drafters.lookup_drafting import LookupDrafter
from runtime.hosts.drafter_spec import (
    InlineDrafterSpec,
    InlineModelDrafterSpec,
    LookupDrafterSpec,
    NoDrafterSpec,
)
from runtime.hosts.model_building import build_drafter, build_shard
from runtime.rank.shard import ShardRunner

_NAME = "inline drafter"


@dataclass(frozen=True, slots=True)
class InlineDrafter:
    """A drafter, and its introduction to the engine."""

    drafter: Drafter
    hello: Hello


def build_inline_drafter(
    spec: InlineDrafterSpec, constraints: Constraints | None = None
) -> InlineDrafter | None:
    """Return the drafter, or None if nothing is to draft in the leader's process.

    Args:
        spec: what drafts.
        constraints: those of the leader, under which it drafts.

    Raises:
        ConfigError: its checkpoint, or the files of a look-up source, cannot be used.
    """
    match spec:
        case NoDrafterSpec():
            return None
        case LookupDrafterSpec(lookups):
            drafter = LookupDrafter(lookups, constraints)
            return InlineDrafter(drafter, introduction(drafter, _NAME))
        case InlineModelDrafterSpec(settings, has_thread):
            if has_thread:  # compiled constraints are for one thread
                constraints = None
            group = SoloGroup()
            runner = ShardRunner(build_shard(settings, group), group)
            model = build_drafter(runner, settings, constraints=constraints)
            limit = runner.max_positions or None
            hello = introduction(model, _NAME, runner.vocab_size, max_positions=limit)
            return InlineDrafter(model, hello)
