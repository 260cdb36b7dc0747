"""Deployments of one target side by side: the engines behind one gateway, each supervised."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import TracebackType

from cluster.deploy.deployment import Deployment
from cluster.deploy.deployment_spec import DeploymentSpec
from cluster.deploy.supervisor import Recovery, Supervision, Supervisor
from parallel.model.low_rank import Adapter
from runtime.errors import PacelineError
from runtime.gateway.gateway import Gateway
from runtime.hosts.rank_settings import ModelSettings
from runtime.links.link import Link


class Fleet:
    """Replicas of a deployment; use it as a context manager so that they end."""

    def __init__(self, spec: DeploymentSpec, num_replicas: int = 1) -> None:
        self.deployments = [Deployment(_on_its_port(spec, n)) for n in range(num_replicas)]
        self._supervisors: list[Supervisor] = []

    def __enter__(self) -> "Fleet":
        """Return the fleet; `start` does the work."""
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End every actor."""
        self.close()

    @property
    def spec(self) -> DeploymentSpec:
        """What runs on each replica; the drafters may change."""
        return self.deployments[0].spec

    @property
    def locations(self) -> str:
        """On which nodes the ranks run, for people; "" if all run on this one."""
        return "; ".join(filter(None, (each.locations for each in self.deployments)))

    @property
    def failure(self) -> PacelineError | None:
        """Why no replica is left, or None while one runs or may restart."""
        failures = [supervisor.failure for supervisor in self._supervisors]
        return failures[0] if failures and None not in failures else None

    @property
    def recoveries(self) -> list[Recovery]:
        """Losses after which the target was restarted."""
        return [each for supervisor in self._supervisors for each in supervisor.recoveries]

    def start(self, note: Callable[[str], None]) -> None:
        """Start all replicas; blocks until they are ready. Raises as `Deployment.start` does."""
        for deployment in self.deployments:
            deployment.start(note)

    def connect(self) -> list[Link]:
        """Open a driver's link to each replica."""
        return [deployment.connect() for deployment in self.deployments]

    def supervise(self, gateway: Gateway, supervision: Supervision) -> None:
        """Restart lost replicas from now on; the gateway was made with `connect`'s links."""
        self._supervisors = [
            Supervisor(deployment, gateway, replica=number, supervision=supervision)
            for number, deployment in enumerate(self.deployments)
        ]
        for supervisor in self._supervisors:
            supervisor.start()

    def set_drafter(self, spec: DeploymentSpec) -> None:
        """Replace the drafters of all replicas by another plan's; see `DrafterGroups.set`."""
        for deployment in self.deployments:
            deployment.set_drafter(spec)

    def swap_drafter(self, settings: ModelSettings) -> None:
        """Replace the drafter's model on all replicas; see `Deployment.swap_drafter`."""
        for deployment in self.deployments:
            deployment.swap_drafter(settings)

    def add_adapter(self, adapter: Adapter) -> None:
        """Give all replicas an adapter, or none; see `Deployment.add_adapter`."""
        for number, deployment in enumerate(self.deployments):
            try:
                deployment.add_adapter(adapter)
            except PacelineError:
                for before in self.deployments[:number]:
                    before.remove_adapter(adapter.name)
                raise

    def remove_adapter(self, name: str) -> None:
        """Take an adapter that no request uses from all replicas."""
        for deployment in self.deployments:
            deployment.remove_adapter(name)

    def resize_drafters(self, num_drafters: int) -> int:
        """Change how many drafters draft on each replica; see `DrafterGroups.resize`."""
        return min(deployment.drafters.resize(num_drafters) for deployment in self.deployments)

    def close(self) -> None:
        """End supervision and all actors."""
        ends: Sequence[Callable[[], None]] = [each.close for each in self._supervisors]
        ends = ends or [each.close for each in self.deployments]
        with ThreadPoolExecutor(len(ends)) as pool:
            for ended in [pool.submit(end) for end in ends]:
                ended.result()
        self._supervisors = []


def _on_its_port(spec: DeploymentSpec, number: int) -> DeploymentSpec:
    """Return the plan with the replica's own port, counted from the configured one."""
    port = spec.leader.link_port
    return replace(spec, leader=replace(spec.leader, link_port=port + number if port else 0))
