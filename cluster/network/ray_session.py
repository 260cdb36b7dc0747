"""The Ray to run on: a local one that ends with this process, or a running one to join."""

import logging
import os
from types import TracebackType

import ray
from ray.exceptions import AuthenticationError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.network.ray_address import joinable
from cluster.network.ray_errors import translated
from cluster.network.ray_temp import local_temp_dir
from runtime.errors import ConfigError
from runtime.node.cores import usable_cores


class RaySession:
    """Connects to Ray on entry, and shuts down a local Ray that it started on exit."""

    def __init__(self, address: str | None, *, num_actors: int) -> None:
        self._address = address
        self._num_actors = num_actors
        self._is_ours = False

    def __enter__(self) -> "RaySession":
        """Connect.

        Raises:
            ConfigError: this process can join no Ray at the address; names the reason.
        """
        if ray.is_initialized():
            return self
        address = None if self._address is None else joinable(self._address)
        self._is_ours = True
        if address is None:
            os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
            os.environ.setdefault("RAY_worker_niceness", "0")  # the user waits for the ranks
            ray.init(
                address="local",
                # Idle ranks use no core, so every actor may be placed.
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
        if self._is_ours:
            ray.shutdown()


def beside_driver(*, soft: bool = False) -> NodeAffinitySchedulingStrategy:
    """Return the strategy that places an actor on the driver's node, whose files it shares.

    Args:
        soft: allow another node if this one has no free resources or is gone.
    """
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=soft)
