"""A driver's side of a run: submit requests, receive committed tokens, check that ranks live."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import repeat

from cluster.deploy.deployment import Deployment
from parallel.messages import Committed, Failed, Finished, Message, RequestStats, Submit
from runtime.errors import ConfigError, PacelineError, PeerError, PeerTimeout
from runtime.links.link import Link

_POLL_S = 0.5
_SILENCE_S = 600.0
_CAUSE_S = 10.0
_CAUSE_POLL_S = 0.1


@dataclass(slots=True, kw_only=True)
class Result:
    """The output of one request, or its error."""

    submit: Submit
    token_ids: list[int] = field(default_factory=list)
    reason: str = ""
    stats: RequestStats = field(default_factory=RequestStats)
    complete: bool | None = None
    """Whether the output satisfies the request's constraint; None without one."""
    error: str | None = None
    """Why it was rejected; None when it ran."""


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
        on_tokens: called with newly committed tokens.
        on_end: called with each result.
        due_s: when each is submitted, in seconds from now, rising; none: all at once.

    Raises:
        PeerError: a target rank died, or the leader was silent for ten minutes.
        PacelineError: the leader failed.
    """
    results = {submit.request: Result(submit=submit) for submit in submits}
    coming = deque(zip(due_s or repeat(0.0), results.values(), strict=False))
    session = _Session(deployment, link, results, on_tokens, on_end)
    start_s = time.monotonic()
    while session.open_requests:
        while coming and start_s + coming[0][0] <= time.monotonic():
            link.send(coming.popleft()[1].submit)
        patience_s = _POLL_S
        if coming:
            patience_s = min(_POLL_S, max(0.0, start_s + coming[0][0] - time.monotonic()))
        session.receive(patience_s)
    return list(results.values())


class _Session:
    """The open requests of one run, and what the leader has answered so far."""

    def __init__(
        self,
        deployment: Deployment,
        link: Link,
        results: dict[int, Result],
        on_tokens: Callable[[Submit, tuple[int, ...]], None],
        on_end: Callable[[Result], None],
    ) -> None:
        self._deployment = deployment
        self._link = link
        self._results = results
        self._on_tokens = on_tokens
        self._on_end = on_end
        self._silent_s = 0.0
        self._checked_s = time.monotonic()
        self.open_requests = set(results)

    def receive(self, patience_s: float) -> None:
        """Handle the next message of the leader, if one arrives in time."""
        try:
            message = self._link.recv(patience_s)
        except PeerError:
            _await_cause(self._deployment)
            raise
        if time.monotonic() - self._checked_s >= _POLL_S:
            self._deployment.check()
            self._checked_s = time.monotonic()
        if message is not None:
            self._silent_s = 0.0
            self._handle(message)
            return
        self._silent_s += patience_s
        if self._silent_s > _SILENCE_S:
            raise PeerTimeout(
                f"the target leader has been silent for {_SILENCE_S:.0f} s with "
                f"{len(self.open_requests)} requests open"
            )

    def _handle(self, message: Message) -> None:
        results = self._results
        match message:
            case Committed(request=request, token_ids=token_ids):
                results[request].token_ids.extend(token_ids)
                self._on_tokens(results[request].submit, token_ids)
            case Finished(request=request, reason=reason, stats=stats, complete=complete):
                results[request].reason, results[request].stats = reason, stats
                results[request].complete = complete
                self._end(request)
            case Failed(request=None, message=text, kind=kind):
                _raise(self._deployment, kind, text)
            case Failed(request=request, message=text) if request is not None:
                results[request].reason, results[request].error = "error", text
                self._end(request)
            case _:
                raise PacelineError(f"the leader sent an unexpected {type(message).__name__}")

    def _end(self, request: int) -> None:
        self.open_requests.discard(request)
        self._on_end(self._results[request])


def _raise(deployment: Deployment, kind: str, text: str) -> None:
    """Raise the leader's failure, or the death that caused it once Ray reports it."""
    if kind == "ConfigError":
        raise ConfigError(text)
    _await_cause(deployment)
    raise PacelineError(f"the target leader failed: {text}")


def _await_cause(deployment: Deployment) -> None:
    """Raise the death that broke a link, as it names the rank; Ray reports it soon."""
    deadline_s = time.monotonic() + _CAUSE_S
    while time.monotonic() < deadline_s:
        deployment.check()
        time.sleep(_CAUSE_POLL_S)
