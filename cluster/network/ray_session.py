"""A Ray to run on: a local one that ends with us, or one that is there already."""

import logging
import os
from types import TracebackType
from typing import Any

import ray
from ray.exceptions import AuthenticationError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.network.ray_address import joinable
from cluster.network.ray_errors import translated
from cluster.network.ray_temp import local_temp_dir
from runtime.errors import ConfigError, PacelineError
from runtime.node.cores import usable_cores


class RaySession:
    """Connects to Ray on entry; a local Ray that it started is shut down on exit."""

    def __init__(self, address: str | None, *, num_actors: int) -> None:
        self._address = address
        self._num_actors = num_actors
        self._ours = False

    def __enter__(self) -> "RaySession":
        """Connect.

        Raises:
            ConfigError: there is no Ray at the address that this process can join; says why.
        """
        if ray.is_initialized():
            return self
        address = None if self._address is None else joinable(self._address)
        self._ours = True
        if address is None:
            os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
            os.environ.setdefault("RAY_worker_niceness", "0")  # ranks are what the user waits for
            ray.init(
                address="local",
                # Idle ranks cost no core: what matters is that every actor finds a place.
                num_cpus=max(usable_cores(), self._num_actors),
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                _temp_dir=local_temp_dir(),
            )
            return self
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except AuthenticationError as error:
            raise translated(error, f"--ray {address}") from error
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ConfigError(
                f"the Ray cluster at --ray {address} was not joined: {error}"
            ) from error
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Disconnect; processes of a local Ray end."""
        if self._ours:
            ray.shutdown()


def beside_driver(*, soft: bool = False) -> NodeAffinitySchedulingStrategy:
    """Return what places an actor on the driver's node, whose files and cores it shares.

    Args:
        soft: another node will do where this one has no room or is gone.
    """
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=soft)


def yielded(reference: Any) -> Any:
    """Return what an actor's method yielded, or raise its failure as an error of ours.

    Raises:
        PacelineError: the method failed; an error of ours as it was raised there.
        PeerLost: the actor died.
    """
    try:
        return ray.get(reference)
    except RayError as error:
        if isinstance(error, RayTaskError) and isinstance(error.cause, PacelineError):
            raise error.cause from error
        raise translated(error, "the process at work") from error
