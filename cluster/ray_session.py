"""A Ray to run on: a local one that ends with us, or one that is there already."""

import logging
import os
from types import TracebackType
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from runtime.errors import ConfigError, PacelineError, PeerLost


class RaySession:
    """Connects to Ray on entry; a local Ray that it started is shut down on exit."""

    def __init__(self, address: str | None, *, num_actors: int) -> None:
        self._address = address
        self._num_actors = num_actors
        self._ours = False

    def __enter__(self) -> "RaySession":
        """Connect.

        Raises:
            ConfigError: no Ray answers at the address.
        """
        if ray.is_initialized():
            return self
        self._ours = True
        if self._address is None:
            os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
            os.environ.setdefault("RAY_worker_niceness", "0")  # ranks are what the user waits for
            ray.init(
                address="local",
                # Idle ranks cost no core: what matters is that every actor finds a place.
                num_cpus=max(os.cpu_count() or 1, self._num_actors),
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
            return self
        try:
            ray.init(address=self._address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ConfigError(
                f"no Ray cluster answers at {self._address!r} ({error}): start one with "
                "`ray start --head`, or leave --ray out to run locally; a cluster that wants a "
                "token needs RAY_AUTH_MODE=token"
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


def yielded(reference: Any) -> Any:
    """Return what an actor's method yielded, or raise its failure as an error of ours.

    Raises:
        PacelineError: the method failed; an error of ours as it was raised there.
        PeerLost: the actor died.
    """
    try:
        return ray.get(reference)
    except RayTaskError as error:
        if isinstance(error.cause, PacelineError):
            raise error.cause from error
        raise PacelineError(f"the actor failed: {error.cause!r}") from error
    except RayActorError as error:
        raise PeerLost(f"the process at work died: {str(error).splitlines()[0]}") from error
