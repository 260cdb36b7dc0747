"""A driver's side of a run: submit requests, take what is committed, watch for deaths."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import repeat

from cluster.deploy.deployment import Deployment
from parallel.messages import Committed, Failed, Finished, RequestStats, Submit
from runtime.errors import ConfigError, PacelineError, PeerError, PeerTimeout
from runtime.links.link import Link

_POLL_S = 0.5
_SILENCE_S = 600.0
_CAUSE_S = 10.0
_CAUSE_POLL_S = 0.1


@dataclass(slots=True, kw_only=True)
class Result:
    """What became of one request."""

    submit: Submit
    token_ids: list[int] = field(default_factory=list)
    reason: str = ""
    stats: RequestStats = field(default_factory=RequestStats)
    error: str | None = None
    """Why it was refused; None when it ran."""


def run_requests(
    deployment: Deployment,
    link: Link,
    submits: Iterable[Submit],
    *,
    on_tokens: Callable[[Submit, tuple[int, ...]], None],
    on_end: Callable[[Result], None],
    due_s: Sequence[float] = (),
) -> list[Result]:
    """Run requests to their end and return their results in the order given; blocks.

    Args:
        deployment: where they run.
        link: to its leader.
        submits: the requests.
        on_tokens: told what is committed.
        on_end: told each result.
        due_s: when each is submitted, in seconds from now, rising; none: all at once.

    Raises:
        PeerError: a target rank died, or nothing was heard for ten minutes.
        PacelineError: the leader failed.
    """
    results = {submit.request: Result(submit=submit) for submit in submits}
    coming = deque(zip(due_s or repeat(0.0), results.values(), strict=False))
    start_s = time.monotonic()
    open_requests = set(results)
    silent_s = 0.0
    checked_s = time.monotonic()
    while open_requests:
        while coming and start_s + coming[0][0] <= time.monotonic():
            link.send(coming.popleft()[1].submit)
        patience_s = _POLL_S
        if coming:
            patience_s = min(_POLL_S, max(0.0, start_s + coming[0][0] - time.monotonic()))
        try:
            message = link.recv(patience_s)
        except PeerError:
            _await_cause(deployment)
            raise
        if time.monotonic() - checked_s >= _POLL_S:
            deployment.check()
            checked_s = time.monotonic()
        if message is None:
            silent_s += patience_s
            if silent_s > _SILENCE_S:
                raise PeerTimeout(
                    f"the target leader has been silent for {_SILENCE_S:.0f} s with "
                    f"{len(open_requests)} requests open"
                )
            continue
        silent_s = 0.0
        match message:
            case Committed(request=request, token_ids=token_ids):
                results[request].token_ids.extend(token_ids)
                on_tokens(results[request].submit, token_ids)
            case Finished(request=request, reason=reason, stats=stats):
                results[request].reason, results[request].stats = reason, stats
                open_requests.discard(request)
                on_end(results[request])
            case Failed(request=None, message=text, kind=kind):
                _raise(deployment, kind, text)
            case Failed(request=request, message=text) if request is not None:
                results[request].reason, results[request].error = "error", text
                open_requests.discard(request)
                on_end(results[request])
            case _:
                raise PacelineError(f"the leader sent an unexpected {type(message).__name__}")
    return list(results.values())


def _raise(deployment: Deployment, kind: str, text: str) -> None:
    """Raise the leader's failure, or the death behind it once Ray knows of it."""
    if kind == "ConfigError":
        raise ConfigError(text)
    _await_cause(deployment)
    raise PacelineError(f"the target leader failed: {text}")


def _await_cause(deployment: Deployment) -> None:
    """Raise the death behind a broken link: its rank's name says more, and Ray knows it soon."""
    deadline_s = time.monotonic() + _CAUSE_S
    while time.monotonic() < deadline_s:
        deployment.check()
        time.sleep(_CAUSE_POLL_S)
