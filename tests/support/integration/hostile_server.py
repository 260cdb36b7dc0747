"""`paceline serve` whose drafters are hostile: they raise, and return nonsense of every kind.

    python -m tests.support.integration.hostile_server serve ...

Faults are rare enough for a drafter to be kept for a while, and common enough for many of them.
"""

import sys
from dataclasses import replace

from actors.shard_actor import ShardActor
from cluster.cli import main as cli
from cluster.deploy import rank_actors
from runtime.constraints.compiler import Constraints
from runtime.drafters.drafting import Drafter
from runtime.hosts import leader_host
from runtime.hosts.drafter_spec import InlineDrafterSpec
from runtime.hosts.inline_drafting import InlineDrafter, build_inline_drafter
from runtime.hosts.rank_settings import DrafterSlot, LeaderSettings
from tests.support.hostile import FuzzingDrafter, RaisingDrafter


class HostileShardActor(ShardActor):
    """A rank whose drafter, inline or its own, is hostile."""

    raises, lies = 0.01, 0.02
    """Shares of all answers."""
    num_made = 0

    def listen(
        self, settings: LeaderSettings, drafter: InlineDrafterSpec, host: str, token: str
    ) -> str:
        """Make every drafter of the leader's own thread hostile."""

        def build(
            spec: InlineDrafterSpec, constraints: Constraints | None = None
        ) -> InlineDrafter | None:
            inline = build_inline_drafter(spec, constraints)
            return inline and replace(inline, drafter=self.hostile(inline.drafter))

        leader_host.build_inline_drafter = build  # type: ignore[attr-defined]
        return super().listen(settings, drafter, host, token)

    def draft(self, slot: DrafterSlot) -> None:
        """Make the drafter of this rank hostile."""
        sound = self._host.drafter
        self._host.drafter = lambda: self.hostile(sound())  # type: ignore[method-assign,assignment,return-value]
        super().draft(slot)

    def hostile(self, drafter: Drafter) -> Drafter:
        """Return a drafter that does what it should not."""
        self.num_made += 1
        raising = RaisingDrafter(drafter, self.num_made, rate=self.raises)
        return FuzzingDrafter(raising, self.num_made, rate=self.lies)


class BreakingShardActor(HostileShardActor):
    """A rank whose drafter soon raises."""

    raises, lies = 0.1, 0.0


if __name__ == "__main__":
    rank_actors.ShardActor = HostileShardActor  # type: ignore[attr-defined]
    sys.argv = ["paceline", *sys.argv[1:]]
    cli.main()
