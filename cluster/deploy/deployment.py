"""A target group and its drafters on Ray: started in order, watched, started anew, and ended.

Ray places the actors, starts their long-running calls and says when one dies. Tokens do not pass
through it: drivers and drafters reach the leader over links.
"""

import logging
import secrets
from collections.abc import Callable
from dataclasses import replace
from types import TracebackType
from typing import Any

import ray
from ray.exceptions import RayError

from cluster.deploy.deployment_spec import DeploymentSpec
from cluster.deploy.drafter_groups import DrafterGroups
from cluster.deploy.group_starter import GroupStarter, Leader
from cluster.deploy.rank_actors import (
    RankActor,
    await_all,
    kill_ranks,
    locations,
    outcome,
    start_ranks,
)
from cluster.network.ray_errors import result_of
from cluster.placement.reservation import Reservation, read_nodes
from parallel.messages import Hello
from runtime.errors import ConfigError, PacelineError, PeerLost
from runtime.hosts.rank_settings import ModelSettings
from runtime.links.grpc_link import connect_grpc
from runtime.links.link import Link
from runtime.timeline import PhaseSpan

_LOG = logging.getLogger("paceline.deployment")
_STOP_TIMEOUT_S = 10.0
_ANSWER_TIMEOUT_S = 30.0
_CONNECT_TIMEOUT_S = 30.0


class Deployment:
    """Running groups; use it as a context manager so that they end."""

    def __init__(self, spec: DeploymentSpec) -> None:
        self._token = secrets.token_hex(16)
        self._opener = GroupStarter(spec.place, spec.group_backend)
        self.drafters = DrafterGroups(spec, self._opener)
        self.target_ranks: list[RankActor] = []
        self._calls: dict[Any, RankActor] = {}
        self._address = ""
        self._drafters_trouble = ""

    def __enter__(self) -> "Deployment":
        """Return the deployment; `start` does the work."""
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
        """What runs; its drafters may change."""
        return self.drafters.spec

    @property
    def lost_drafters(self) -> list[str]:
        """Why drafters were lost."""
        return self.drafters.losses

    @property
    def num_replaced(self) -> int:
        """Times a drafter was started in place of a lost one."""
        return self.drafters.num_replaced

    def start(self, note: Callable[[str], None]) -> None:
        """Start the target, then the drafters; blocks until all are ready.

        Args:
            note: told what is being waited for, for a progress display.

        Raises:
            ConfigError: the nodes have no room for a rank, or it cannot load its model.
            PeerError: a rank died or did not get ready in time; names it.
        """
        self._start(self._rooms(self.spec.drafter_groups, note), note)

    def restart(self) -> None:
        """Start target and drafters anew after a target rank was lost; blocks until they serve.

        What the old ranks held is gone, and links to the old leader are closed. Without room for
        the drafters, or with drafters that do not start, the target runs without them.

        Raises:
            ConfigError: the nodes have no room for the target.
            PeerError: a rank died or did not get ready in time; names it.
        """
        self._kill()
        self._opener.forget_target()
        try:
            rooms = self._rooms(self.spec.drafter_groups, _LOG.info)
        except ConfigError:
            rooms = self._rooms(0, _LOG.info)
        try:
            self._start(rooms, _LOG.info)
        except PacelineError as error:
            self._kill()
            if self.spec.target_only == self.spec:
                raise
            _LOG.error("the target is restarted without its drafter, after: %s", error)
            self._restart_alone()

    def _restart_alone(self) -> None:
        """Start the target without drafters; those with ranks of their own are started later."""
        spec = self.spec
        self.drafters.spec = spec.target_only
        try:
            self._start(self._rooms(0, _LOG.info), _LOG.info)
        except PacelineError:
            self._kill()
            raise
        finally:
            self.drafters.spec = spec

    def drop_inline_drafter(self) -> None:
        """Run without a drafter in the leader's process after the next restart."""
        leader = replace(self.spec.leader, inline_drafter=None, lookup=None)
        self.drafters.spec = replace(self.spec, leader=leader)

    def swap_drafter(self, settings: ModelSettings, num_drafters: int | None = None) -> None:
        """Replace the drafter's model while requests run; blocks until the new one drafts.

        Args:
            settings: the new model.
            num_drafters: the ranks it gets; None: as many as were planned.

        Raises:
            ConfigError: the new model cannot be loaded, or there is no model to replace.
            PeerError: a rank died or did not get ready in time; the old drafter stays.
        """
        spec = self.spec
        inline = spec.leader.inline_drafter is not None
        if not inline and spec.drafter is None:
            raise ConfigError("there is no drafter with a model to replace")
        leader = replace(spec.leader, inline_drafter=settings if inline else None)
        self.set_drafter(
            replace(
                spec,
                drafter=None if inline else settings,
                num_drafters=0 if inline else num_drafters or spec.num_drafters,
                leader=leader,
            )
        )

    def set_drafter(self, spec: DeploymentSpec) -> None:
        """Draft as another plan says while requests run; see `DrafterGroups.set`."""
        self.drafters.set(spec)

    @property
    def locations(self) -> str:
        """On which nodes the ranks are, for people; "" where everything is on this one."""
        return locations([*self.target_ranks, *self.drafters.ranks])

    def connect(self, timeout_s: float = _CONNECT_TIMEOUT_S) -> Link:
        """Open a driver's link to the leader.

        Raises:
            PeerError: it did not answer in time.
        """
        hello = Hello(role="driver", name="driver")
        return connect_grpc(self._address, token=self._token, hello=hello, timeout_s=timeout_s)

    def check(self) -> None:
        """Look whether every rank is alive.

        A dead drafter is noted in `lost_drafters`; the target goes on without it, until a group of
        the ranks that are left has been started in its place.

        Raises:
            PeerLost: a target rank died; names it.
            PacelineError: the leader's engine ended with an error.
        """
        try:
            self.drafters.check()
        except Exception as error:  # what is wrong with drafters is no reason to lose the target
            if str(error) != self._drafters_trouble:
                _LOG.exception("drafters cannot be looked after")
            self._drafters_trouble = str(error)
        calls = list(self._calls)
        done = ray.wait(calls, num_returns=len(calls), timeout=0)[0] if calls else []
        found = [outcome(call, self._calls.pop(call)) for call in done]
        errors = [error for error in found if error is not None]
        # The rank that died says more than the ones that missed it.
        errors.sort(key=lambda error: not isinstance(error, PeerLost))
        if errors:
            raise errors[0]

    def pids(self, role: str) -> list[int]:
        """Return the process ids of a role's ranks, in rank order."""
        ranks = self.target_ranks if role == "target" else self.drafters.ranks
        calls = [rank.actor.pid.remote() for rank in ranks]
        found: list[int] = result_of(calls, f"a {role} rank", timeout_s=_ANSWER_TIMEOUT_S)
        return found

    def spans(self) -> list[PhaseSpan]:
        """Return when leader and drafters worked since this was last asked, if they keep it."""
        drafting = [] if self.spec.ngram else [r for r in self.drafters.ranks if r.rank == 0]
        taken: list[PhaseSpan] = []
        for rank in [*self.target_ranks[:1], *drafting]:
            try:
                taken += ray.get(rank.actor.spans.remote(), timeout=_ANSWER_TIMEOUT_S)
            except RayError:
                continue  # it is gone, and what it kept with it
        return taken

    def close(self) -> None:
        """End the engine, its followers and the drafters; actors that do not end are killed."""
        if self._address and self.target_ranks:
            stopping = self.target_ranks[0].actor.stop.remote(_STOP_TIMEOUT_S)
            try:
                ray.get(stopping, timeout=_STOP_TIMEOUT_S)
                ray.wait(list(self._calls), num_returns=len(self._calls), timeout=2.0)
            except RayError:
                pass  # it is killed below
        self._kill()

    def _kill(self) -> None:
        self.drafters.freeze()
        kill_ranks(self.target_ranks)
        self.drafters.end()
        self.target_ranks, self._calls, self._address = [], {}, ""

    def _rooms(self, drafter_groups: int, note: Callable[[str], None]) -> list[Reservation]:
        """Reserve room for the target, and after it for each drafter group."""
        need = self.spec.drafter_need
        needs = [] if need is None else [need] * drafter_groups
        return self._opener.place([self.spec.target_need, *needs], note)

    def _start(self, rooms: list[Reservation], note: Callable[[str], None]) -> None:
        spec = self.spec
        note(f"starting {spec.tp} target rank(s)")
        self.target_ranks = start_ranks(spec.target, rooms[0])
        groups = [start_ranks(spec.drafter, room) for room in rooms[1:]]
        try:
            note("loading the target" + (" and the drafter" if spec.drafter else ""))
            opening = self._opener.open(self.target_ranks, spec.target)
            if spec.drafter is not None:
                for ranks in groups:
                    opening |= self._opener.open(ranks, spec.drafter)
            await_all(opening)
            leader = self._lead()
        except PacelineError:
            kill_ranks([rank for ranks in groups for rank in ranks])
            raise
        self.drafters.begin(leader, groups)

    def _lead(self) -> Leader:
        """Start the engine on the target's ranks."""
        first = self.target_ranks[0]
        is_alone = len(read_nodes()) == 1
        if is_alone:
            self._opener.confine()
        host = self._opener.host_of(first, is_reached_here=is_alone)
        listening = first.actor.listen.remote(self.spec.leader, host, self._token)
        self._address = await_all({listening: first})[listening]
        self._calls[first.actor.lead.remote()] = first
        for rank in self.target_ranks[1:]:
            self._calls[rank.actor.follow.remote()] = rank
        return Leader(rank=first, address=self._address, token=self._token)
