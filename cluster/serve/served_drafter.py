"""The drafter of a server, changed by an administrator or by a new version on disk."""

from dataclasses import replace

from cluster.deploy.deployment_plan import plan_deployment
from cluster.deploy.drafter_capacity import DrafterCapacity
from cluster.deploy.drafter_plan import NOTHING_DRAFTS, find_drafter
from cluster.deploy.drafter_text import AUTO
from cluster.deploy.fleet import Fleet
from cluster.deploy.target_plan import PlannedModel
from cluster.options.model_options import ModelOptions
from cluster.serve.draft_watch import DrafterWatch
from runtime.errors import ConfigError
from runtime.hosts.drafter_spec import model_of


class ServedDrafter:
    """Plans drafters for a running target and gives them to its deployments."""

    def __init__(
        self,
        fleet: Fleet,
        models: ModelOptions,
        target: PlannedModel,
        *,
        first: str,
        cache_tokens: int,
        bounds: tuple[int, int],
    ) -> None:
        self._fleet = fleet
        self._models = models
        self._target = target
        self._first = first
        self._cache_tokens = cache_tokens
        self._bounds = bounds
        self.watch = self._watch()
        """Detects new versions of a trained drafter; None for other drafters."""

    def set(self, drafter: str | None) -> str:
        """Replace the drafter; "" and auto are the first one, None stops drafting. Return its name.

        Raises:
            ConfigError: it cannot be used; the old one stays.
            PeerError: it did not start; the old one stays.
        """
        choice = NOTHING_DRAFTS
        if drafter is not None:
            # No nodes: their capacity was checked for the first drafter, and its ranks use it now.
            name = self._first if drafter in ("", AUTO) else drafter
            choice = find_drafter(
                replace(self._models, drafter=name), self._target, DrafterCapacity(nodes=())
            )
        spec = plan_deployment(
            self._models, self._target, choice, cache_tokens=self._cache_tokens, stops=True
        )
        num_drafters = max(1, self._fleet.spec.num_drafters)
        self._fleet.set_drafter(replace(spec, num_drafters=num_drafters))
        self.watch = self._watch()
        return choice.name

    def set_count(self, num_drafters: int) -> int:
        """Change how many drafters draft side by side; return how many do.

        Raises:
            ConfigError: the number is out of range, or this drafter cannot be scaled.
            PeerError: a drafter did not start; the others draft.
        """
        minimum, maximum = self._bounds
        if not minimum <= num_drafters <= maximum:
            raise ConfigError(
                f"`num_drafters` is {num_drafters}, this server allows {minimum} to {maximum}: "
                "raise `max_drafters`"
            )
        return self._fleet.resize_drafters(num_drafters)

    def _watch(self) -> DrafterWatch | None:
        spec = self._fleet.spec
        settings = model_of(spec.drafter)
        if settings is None or settings.embedding_directory is None or spec.link != "grpc":
            return None
        return DrafterWatch(self._fleet, settings)
