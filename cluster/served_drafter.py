"""What drafts behind a server: changed by its administrator, or by a new version on disk."""

from dataclasses import replace

from cluster.deployment import Deployment
from cluster.draft_watch import DrafterWatch
from cluster.options import ModelOptions
from cluster.planning import PlannedModel, plan_deployment, plan_drafter


class ServedDrafter:
    """Plans another drafter for the same target, and lets the deployment draft with it."""

    def __init__(
        self,
        deployment: Deployment,
        models: ModelOptions,
        target: PlannedModel,
        *,
        cache_tokens: int,
    ) -> None:
        self._deployment = deployment
        self._models = models
        self._target = target
        self._cache_tokens = cache_tokens
        self.watch = self._watch()
        """Looks for new versions of a trained drafter; None where there is none."""

    def set(self, drafter: str | None) -> str:
        """Draft with another drafter; "" is the one first planned, None is none.

        Raises:
            ConfigError: it cannot be used; the old one stays.
            PeerError: it did not start; the old one stays.
        """
        choice = None
        if drafter is not None:
            models = replace(self._models, drafter=drafter or self._models.drafter)
            choice = plan_drafter(models, self._target)
        spec = plan_deployment(
            self._models, self._target, choice, cache_tokens=self._cache_tokens, stops=True
        )
        self._deployment.set_drafter(spec)
        self.watch = self._watch()
        return choice.name if choice is not None else ""

    def _watch(self) -> DrafterWatch | None:
        spec = self._deployment.spec
        settings = spec.drafter or spec.leader.inline_drafter
        if settings is None or settings.embedding_directory is None or spec.link != "grpc":
            return None
        return DrafterWatch(self._deployment, settings)
