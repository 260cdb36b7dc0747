"""Restarts a deployment's target after a loss, so that its requests continue.

A target group is lost when one of its ranks dies, does not answer, or takes too long for a step.
The whole group is ended and restarted on nodes with free resources, it loads its weights again, and
the gateway sends the new leader each open request with its final tokens.
"""

import logging
import threading
import time
from dataclasses import dataclass, field

from cluster.deploy.deployment import Deployment
from cluster.deploy.rank_liveness import LivenessLimits, LivenessMonitor, Stuck
from runtime.errors import PacelineError, PeerError, PeerLost
from runtime.gateway.gateway import Gateway
from runtime.heartbeat import DRAFTING
from runtime.restarts import RestartBudget, RestartLimits

_LOG = logging.getLogger("paceline.supervisor")
_CHECK_INTERVAL_S = 0.25
_CONNECT_S = 1.0
_MAX_CONNECTS = 10
_JOIN_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Supervision:
    """How a deployment is watched."""

    restarts: RestartLimits = field(default_factory=RestartLimits)
    liveness: LivenessLimits = field(default_factory=LivenessLimits)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """A loss after which the target was restarted."""

    cause: str
    seconds: float
    """From its discovery until requests ran again."""


class Supervisor:
    """Watches one deployment, which is one of a gateway's engines, in a thread."""

    def __init__(
        self,
        deployment: Deployment,
        gateway: Gateway,
        *,
        replica: int = 0,
        supervision: Supervision | None = None,
    ) -> None:
        supervision = supervision or Supervision()
        self.deployment = deployment
        self.failure: PacelineError | None = None
        """Why the deployment is not restarted any more; None while it runs."""
        self.recoveries: list[Recovery] = []
        self._gateway = gateway
        self._replica = replica
        self._budget = RestartBudget(supervision.restarts)
        self._liveness = LivenessMonitor(supervision.liveness)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"supervisor {replica}", daemon=True)

    def start(self) -> None:
        """Start to watch a running deployment."""
        self._thread.start()

    def close(self) -> None:
        """Stop watching and end the deployment; a restart in progress ends with it."""
        self._closing.set()
        self.deployment.close()
        self._thread.join(_JOIN_S)
        self.deployment.close()  # what a restart has started meanwhile

    def _run(self) -> None:
        try:
            while self.failure is None and not self._closing.wait(_CHECK_INTERVAL_S):
                error = self._problem()
                if error is not None and not self._closing.is_set():
                    self._recover(error)
        except Exception as error:
            if not self._closing.is_set():  # Ray itself is gone, or there is a bug
                _LOG.exception("supervision has failed")
                self._give_up(PacelineError(f"the target is not supervised any longer: {error!r}"))

    def _problem(self) -> PacelineError | None:
        """Return why the target group has failed, or None."""
        deployment = self.deployment
        try:
            deployment.check()
        except PacelineError as error:
            return error
        stuck = self._liveness.check([*deployment.target_ranks, *deployment.drafters.ranks])
        self._gateway.replicas[self._replica].beats = self._liveness.beats()
        for each in stuck:
            if each.rank.role == "target":
                self._drop_hung_drafter(each)
                return each.error
        deployment.drafters.kill([each.rank for each in stuck])
        if not self._gateway.replicas[self._replica].is_up:
            return self._reconnect()
        return None

    def _drop_hung_drafter(self, stuck: Stuck) -> None:
        """Drop a drafter that hangs in the leader's thread: it would hang again."""
        is_drafting = stuck.state == DRAFTING and stuck.rank.rank == 0
        if is_drafting and self.deployment.spec.has_inline_drafter:
            _LOG.error("the inline drafter hangs: the target is restarted without it")
            self.deployment.drop_inline_drafter()

    def _reconnect(self) -> PacelineError | None:
        """Open a new link to a leader that may be alive; return why that is impossible."""
        error: PacelineError = PeerLost("the leader's link was lost")
        for _ in range(_MAX_CONNECTS):
            try:
                self.deployment.check()  # raises the death that caused it, once Ray reports it
            except PacelineError as found:
                return found
            try:
                link = self.deployment.connect(_CONNECT_S)
            except PeerError as found:
                error = found
                continue
            self._gateway.attach(self._replica, link)
            return None
        return error

    def _recover(self, error: PacelineError) -> None:
        """Restart the deployment until it runs or the budget is spent."""
        cause, start_s = error, time.monotonic()
        self._gateway.lose(self._replica, error)
        while not self._closing.is_set():
            pause_s = self._budget.take(time.monotonic())
            if pause_s is None:
                self._give_up(PacelineError(f"the target was lost too often, last of all: {error}"))
                return
            _LOG.error("restarting the target in %.1f s: %s", pause_s, error)
            if self._closing.wait(pause_s):
                return
            try:
                self.deployment.restart()
                link = self.deployment.connect()
            except PacelineError as found:
                error = found
                continue
            self._gateway.attach(self._replica, link)
            self._budget.note_running(time.monotonic())
            seconds = time.monotonic() - start_s
            self.recoveries.append(Recovery(cause=str(cause), seconds=seconds))
            _LOG.warning("the target runs again after %.1f s", seconds)
            return

    def _give_up(self, failure: PacelineError) -> None:
        self._gateway.give_up(self._replica, failure)
        self.failure = failure
