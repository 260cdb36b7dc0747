"""Ray's errors as errors of ours: one table, in which each kind has its cause and its remedy."""

from collections.abc import Callable
from typing import Any

import ray
from ray import exceptions as rays
from ray.exceptions import RayError

from runtime.errors import ConfigError, PacelineError, PeerLost, PeerTimeout

LOSSES = (
    rays.RayActorError,
    rays.ActorUnschedulableError,
    rays.ActorPlacementGroupRemoved,
    rays.NodeDiedError,
    rays.WorkerCrashedError,
    rays.OutOfMemoryError,
    rays.ObjectLostError,
)
"""Errors after which another process may do the same work: the one that had it is gone."""
_TEXT = 400
"""Characters of Ray's own words that an error repeats."""

_CONFIG = f"{ConfigError.__module__}.{ConfigError.__name__}: "

Translate = Callable[[Any, str], PacelineError]
"""Makes an error of ours from one of Ray's and from what it happened to."""


def result_of(call: Any, who: str, *, timeout_s: float | None = None) -> Any:
    """Return what a call of an actor returned; blocks until it has.

    Raises:
        PacelineError: it failed, as `translated` says.
    """
    try:
        return ray.get(call, timeout=timeout_s)
    except RayError as error:
        raise translated(error, who) from error


def translated(error: RayError, who: str) -> PacelineError:
    """Return one of Ray's errors as one of ours.

    Args:
        error: what Ray raised.
        who: the process or the call that failed; starts the message.
    """
    for kind, translate in TABLE:
        if isinstance(error, kind):
            return translate(error, who)
    return PacelineError(f"{who} failed in Ray: {_words(error)}")


def _task_failed(error: rays.RayTaskError, who: str) -> PacelineError:
    cause = error.cause
    if isinstance(cause, ConfigError):
        return cause
    if isinstance(cause, PacelineError):
        return type(cause)(f"{who}: {cause}")
    return PacelineError(f"{who} failed: {cause!r}")


def _actor_died(error: rays.RayActorError, who: str) -> PacelineError:
    if error.preempted:
        return PeerLost(f"{who} died: its node left the cluster after a preemption notice")
    if error.actor_init_failed:
        # Ray keeps the cause as the last line of a traceback that the other side formatted.
        cause = str(error).strip().splitlines()[-1]
        kind = ConfigError if cause.startswith(_CONFIG) else PacelineError
        return kind(f"{who} cannot start: {cause.removeprefix(_CONFIG)}")
    return PeerLost(f"{who} died: {_death(str(error))}")


def _death(text: str) -> str:
    """Return the lines of Ray's report that say why, without class, ids and addresses."""
    lines = [line.strip() for line in text.strip().splitlines() if not line.startswith("\t")]
    return " ".join(lines)[:_TEXT]


def _lost(what: str) -> Translate:
    return lambda error, who: PeerLost(f"{who} {what}: {_words(error)}")


def _refused(what: str) -> Translate:
    return lambda error, who: ConfigError(f"{who} {what}: {_words(error)}")


def _failed(what: str) -> Translate:
    return lambda error, who: PacelineError(f"{who} {what}: {_words(error)}")


def _timed_out(error: RayError, who: str) -> PacelineError:
    return PeerTimeout(f"{who} did not answer in time: {_words(error)}")


def _words(error: RayError) -> str:
    return " ".join(str(error).split())[:_TEXT]


TABLE: tuple[tuple[type[RayError], Translate], ...] = (
    (rays.RayTaskError, _task_failed),
    (rays.RayActorError, _actor_died),
    (rays.ActorUnschedulableError, _lost("cannot run on its node, which left or is leaving")),
    (rays.TaskUnschedulableError, _lost("cannot run on its node, which left or is leaving")),
    (rays.ActorPlacementGroupRemoved, _lost("has no place any longer")),
    (rays.TaskPlacementGroupRemoved, _lost("has no place any longer")),
    (rays.NodeDiedError, _lost("is lost with its node")),
    (rays.LocalRayletDiedError, _lost("is lost with its node")),
    (rays.WorkerCrashedError, _lost("died")),
    (rays.OutOfMemoryError, _lost("was ended because its node ran out of memory")),
    (rays.OutOfDiskError, _failed("found no room on its node's disk")),
    (rays.ObjectStoreFullError, _failed("found no room in its node's object store")),
    (rays.ObjectLostError, _lost("needs an object whose owner or node is gone")),
    (rays.RuntimeEnvSetupError, _refused("cannot start: its runtime environment failed")),
    (rays.AuthenticationError, _refused("was refused by the cluster, which requires a token")),
    (rays.GetTimeoutError, _timed_out),
    (rays.RpcError, _lost("is unknown: Ray's head does not answer")),
    (rays.TaskCancelledError, _failed("was canceled")),
    (rays.PendingCallsLimitExceeded, _failed("has too many calls waiting")),
    (rays.CrossLanguageError, _failed("failed")),
    (rays.UnserializableException, _failed("failed with an error that cannot be sent")),
    (rays.RaySystemError, _failed("failed in Ray itself")),
)
