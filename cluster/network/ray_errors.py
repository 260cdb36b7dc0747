"""Ray's errors as Paceline's: one table from each kind to a class and its text.

No other module catches errors of calls to actors: they call `result_of`, or `error_of`.
"""

from collections.abc import Callable
from typing import Any

import ray
from ray import exceptions as rays
from ray.exceptions import RayError

from runtime.errors import ConfigError, PacelineError, PeerLost, PeerTimeout

_LOSSES = (
    rays.RayActorError,
    rays.ActorUnschedulableError,
    rays.ActorPlacementGroupRemoved,
    rays.NodeDiedError,
    rays.WorkerCrashedError,
    rays.OutOfMemoryError,
    rays.ObjectLostError,
)
"""Errors after which another process can do the same work: the process that did it is gone."""
_MAX_CHARACTERS = 400
"""Characters of Ray's own text that an error repeats."""

_CONFIG = f"{ConfigError.__module__}.{ConfigError.__name__}: "

Translate = Callable[[Any, str], PacelineError]
"""Makes an error of Paceline from one of Ray and from the name of what failed."""


def result_of(call: Any, peer: str, *, timeout_s: float | None = None) -> Any:
    """Return the result of an actor's call; blocks until there is one.

    Raises:
        PacelineError: it failed; the class is that of `translated`.
    """
    try:
        return ray.get(call, timeout=timeout_s)
    except RayError as error:
        raise translated(error, peer) from error


def yielded(reference: Any) -> Any:
    """Return what an actor's method yielded; an error of Paceline is raised as in the actor.

    Raises:
        PacelineError: the method failed.
        PeerLost: the actor died.
    """
    try:
        return ray.get(reference)
    except RayError as error:
        if isinstance(error, rays.RayTaskError) and isinstance(error.cause, PacelineError):
            raise error.cause from error
        raise translated(error, "the worker process") from error


def error_of(call: Any, peer: str) -> PacelineError | None:
    """Return why a finished call failed, or None if it did not."""
    try:
        ray.get(call)
    except RayError as error:
        found = translated(error, peer)
        found.__cause__ = error
        return found
    return None


def is_loss(error: PacelineError) -> bool:
    """Return whether the process of a failed call is gone, so that another one can do its work.

    Args:
        error: what `result_of` raised, or `error_of` returned.
    """
    return isinstance(error.__cause__, _LOSSES)


def translated(error: RayError, peer: str) -> PacelineError:
    """Return one of Ray's errors as one of Paceline's.

    Args:
        error: what Ray raised.
        peer: the process or the call that failed; starts the message.
    """
    for kind, translate in TABLE:
        if isinstance(error, kind):
            return translate(error, peer)
    return PacelineError(f"{peer} failed in Ray: {_text_of(error)}")


def _task_failed(error: rays.RayTaskError, peer: str) -> PacelineError:
    cause = error.cause
    if isinstance(cause, ConfigError):
        return cause
    if isinstance(cause, PacelineError):
        return type(cause)(f"{peer}: {cause}")
    return PacelineError(f"{peer} failed: {cause!r}")


def _actor_died(error: rays.RayActorError, peer: str) -> PacelineError:
    if error.preempted:
        return PeerLost(f"{peer} died: its node left the cluster after a preemption notice")
    if error.actor_init_failed:
        # Ray keeps the cause as the last line of a traceback that the other side formatted.
        cause = str(error).strip().splitlines()[-1]
        kind = ConfigError if cause.startswith(_CONFIG) else PacelineError
        return kind(f"{peer} cannot start: {cause.removeprefix(_CONFIG)}")
    return PeerLost(f"{peer} died: {_death(str(error))}")


def _death(text: str) -> str:
    """Return the lines of Ray's report that name the cause, without class, ids and addresses."""
    lines = [line.strip() for line in text.strip().splitlines() if not line.startswith("\t")]
    return " ".join(lines)[:_MAX_CHARACTERS]


def _lost(what: str) -> Translate:
    return lambda error, peer: PeerLost(f"{peer} {what}: {_text_of(error)}")


def _rejected(what: str) -> Translate:
    return lambda error, peer: ConfigError(f"{peer} {what}: {_text_of(error)}")


def _failed(what: str) -> Translate:
    return lambda error, peer: PacelineError(f"{peer} {what}: {_text_of(error)}")


def _timed_out(error: RayError, peer: str) -> PacelineError:
    return PeerTimeout(f"{peer} did not answer in time: {_text_of(error)}")


def _text_of(error: RayError) -> str:
    return " ".join(str(error).split())[:_MAX_CHARACTERS]


TABLE: tuple[tuple[type[RayError], Translate], ...] = (
    (rays.RayTaskError, _task_failed),
    (rays.RayActorError, _actor_died),
    (rays.ActorUnschedulableError, _lost("cannot run on its node, which left or is leaving")),
    (rays.TaskUnschedulableError, _lost("cannot run on its node, which left or is leaving")),
    (rays.ActorPlacementGroupRemoved, _lost("lost its reserved resources")),
    (rays.TaskPlacementGroupRemoved, _lost("lost its reserved resources")),
    (rays.NodeDiedError, _lost("is lost with its node")),
    (rays.LocalRayletDiedError, _lost("is lost with its node")),
    (rays.WorkerCrashedError, _lost("died")),
    (rays.OutOfMemoryError, _lost("was ended because its node ran out of memory")),
    (rays.OutOfDiskError, _failed("failed: its node's disk is full")),
    (rays.ObjectStoreFullError, _failed("failed: its node's object store is full")),
    (rays.ObjectLostError, _lost("needs an object whose owner or node is gone")),
    (rays.RuntimeEnvSetupError, _rejected("cannot start: its runtime environment failed")),
    (rays.AuthenticationError, _rejected("was rejected by the cluster, which requires a token")),
    (rays.GetTimeoutError, _timed_out),
    (rays.RpcError, _lost("cannot be reached: Ray's head does not answer")),
    (rays.TaskCancelledError, _failed("was canceled")),
    (rays.PendingCallsLimitExceeded, _failed("has too many pending calls")),
    (rays.CrossLanguageError, _failed("failed")),
    (rays.UnserializableException, _failed("failed with an error that cannot be sent")),
    (rays.RaySystemError, _failed("failed in Ray itself")),
)
