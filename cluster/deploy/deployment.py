"""A target group and its drafters on Ray: started in order, watched, restarted and ended.

Ray places the actors, starts their long-running calls and reports when one dies. Tokens do not pass
through it: drivers and drafters reach the leader over links.
"""

import logging
import secrets
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from types import TracebackType
from typing import Any

import ray

from cluster.deploy.deployment_spec import DeploymentSpec
from cluster.deploy.drafter_groups import DrafterGroups
from cluster.deploy.group_starter import GroupStarter, Leader
from cluster.deploy.rank_actors import (
    RankActor,
    await_all,
    kill_ranks,
    locations,
    start_drafter_ranks,
    start_ranks,
)
from cluster.network.ray_errors import error_of, result_of
from cluster.placement.reservation import Reservation, read_nodes
from parallel.messages import Hello
from parallel.model.low_rank import Adapter
from runtime.errors import ConfigError, PacelineError, PeerLost
from runtime.hosts.drafter_spec import (
    DrafterSpec,
    InlineModelDrafterSpec,
    ModelDrafterSpec,
    model_of,
)
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
        self._starter = GroupStarter(spec.place, spec.group_backend)
        self.drafters = DrafterGroups(spec, self._starter)
        self.target_ranks: list[RankActor] = []
        self._calls: dict[Any, RankActor] = {}
        self._address = ""
        self._last_drafter_error = ""
        self._adapters: dict[str, Adapter] = {}
        """Those of the target, which a restarted one gets again."""
        self._adapting = threading.Lock()

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
        """What runs; the drafters may change."""
        return self.drafters.spec

    @property
    def lost_drafters(self) -> list[str]:
        """Why drafters were lost."""
        return self.drafters.losses

    @property
    def num_replaced(self) -> int:
        """How many lost drafters were replaced."""
        return self.drafters.num_replaced

    def start(self, note: Callable[[str], None]) -> None:
        """Start the target, then the drafters; blocks until all are ready.

        Args:
            note: called with the current step, for a progress display.

        Raises:
            ConfigError: the nodes have no capacity for a rank, or it cannot load its model.
            PeerError: a rank died or did not get ready in time; names it.
        """
        self._start(self._reserve(self.spec.num_drafters, note), note)

    def restart(self) -> None:
        """Restart target and drafters after a target rank was lost; blocks until they serve.

        The state of the old ranks is gone, and links to the old leader are closed. Without capacity
        for the drafters, or with drafters that do not start, the target runs without them.

        Raises:
            ConfigError: the nodes have no capacity for the target.
            PeerError: a rank died or did not get ready in time; names it.
        """
        self._kill()
        self._starter.forget_target()
        try:
            reservations = self._reserve(self.spec.num_drafters, _LOG.info)
        except ConfigError:
            reservations = self._reserve(0, _LOG.info)
        try:
            self._start(reservations, _LOG.info)
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
            self._start(self._reserve(0, _LOG.info), _LOG.info)
        except PacelineError:
            self._kill()
            raise
        finally:
            self.drafters.spec = spec

    def drop_inline_drafter(self) -> None:
        """Run without a drafter in the leader's process after the next restart."""
        if self.spec.has_inline_drafter:
            self.drafters.spec = self.spec.target_only

    def swap_drafter(self, settings: ModelSettings, num_ranks: int | None = None) -> None:
        """Replace the drafter's model while requests run; blocks until the new one drafts.

        Args:
            settings: the new model.
            num_ranks: the ranks it gets; None: as many as were planned.

        Raises:
            ConfigError: the new model cannot be loaded, or there is no model to replace.
            PeerError: a rank died or did not get ready in time; the old drafter stays.
        """
        drafter: DrafterSpec
        match self.spec.drafter:
            case InlineModelDrafterSpec(has_thread=has_thread):
                drafter = InlineModelDrafterSpec(settings, has_thread)
            case ModelDrafterSpec(num_ranks=planned):
                drafter = ModelDrafterSpec(settings, num_ranks or planned)
            case _:
                raise ConfigError("there is no drafter with a model to replace")
        self.set_drafter(replace(self.spec, drafter=drafter))

    def set_drafter(self, spec: DeploymentSpec) -> None:
        """Replace the drafters by those of another plan; see `DrafterGroups.set`."""
        self.drafters.set(spec)

    def add_adapter(self, adapter: Adapter) -> None:
        """Give the target's ranks an adapter while requests run; blocks until all hold it.

        Raises:
            ConfigError: it does not fit the target.
            PeerError: a rank died, or did not answer in time.
        """
        with self._adapting:
            try:
                self._put_adapters([adapter])
            except PacelineError:
                self._take_adapter(adapter.name)
                raise
            self._adapters[adapter.name] = adapter

    def remove_adapter(self, name: str) -> None:
        """Take an adapter that no request uses from the target's ranks."""
        with self._adapting:
            self._adapters.pop(name, None)
            self._take_adapter(name)

    def _put_adapters(self, adapters: Sequence[Adapter]) -> None:
        for adapter in adapters:
            calls = [rank.actor.add_adapter.remote(adapter) for rank in self.target_ranks]
            result_of(calls, f"the adapter {adapter.name}", timeout_s=_ANSWER_TIMEOUT_S)

    def _take_adapter(self, name: str) -> None:
        for rank in self.target_ranks:
            with suppress(PacelineError):  # a rank that is gone holds nothing
                call = rank.actor.remove_adapter.remote(name)
                result_of(call, rank.name, timeout_s=_ANSWER_TIMEOUT_S)

    @property
    def locations(self) -> str:
        """On which nodes the ranks run, for people; "" if all run on this one."""
        return locations([*self.target_ranks, *self.drafters.ranks])

    def connect(self, timeout_s: float = _CONNECT_TIMEOUT_S) -> Link:
        """Open a driver's link to the leader.

        Raises:
            PeerError: it did not answer in time.
        """
        hello = Hello(role="driver", name="driver")
        return connect_grpc(self._address, token=self._token, hello=hello, timeout_s=timeout_s)

    def check(self) -> None:
        """Check that every rank is alive.

        A dead drafter is noted in `lost_drafters`; the target continues without it, until a group
        of as many ranks as are left has replaced it.

        Raises:
            PeerLost: a target rank died; names it.
            PacelineError: the leader's engine ended with an error.
        """
        try:
            self.drafters.check()
        except Exception as error:  # an error of the drafters must not end the target
            if str(error) != self._last_drafter_error:
                _LOG.exception("drafters cannot be checked")
            self._last_drafter_error = str(error)
        calls = list(self._calls)
        done = ray.wait(calls, num_returns=len(calls), timeout=0)[0] if calls else []
        found = [error_of(call, self._calls.pop(call).name) for call in done]
        errors = [error for error in found if error is not None]
        # The rank that died has more to report than those that missed it.
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
        """Return when leader and drafters worked since the last call, if they record it."""
        leaders = [rank for rank in self.drafters.ranks if rank.rank == 0]
        taken: list[PhaseSpan] = []
        for rank in [*self.target_ranks[:1], *leaders]:
            try:
                spans = rank.actor.spans.remote()
                taken += result_of(spans, rank.name, timeout_s=_ANSWER_TIMEOUT_S)
            except PacelineError:
                continue  # it is gone, with its records
        return taken

    def close(self) -> None:
        """End the engine, its followers and the drafters; actors that do not end are killed."""
        if self._address and self.target_ranks:
            leader = self.target_ranks[0]
            stopping = leader.actor.stop.remote(_STOP_TIMEOUT_S)
            with suppress(PacelineError):  # it is killed below
                result_of(stopping, leader.name, timeout_s=_STOP_TIMEOUT_S)
                ray.wait(list(self._calls), num_returns=len(self._calls), timeout=2.0)
        self._kill()

    def _kill(self) -> None:
        self.drafters.freeze()
        kill_ranks(self.target_ranks)
        self.drafters.end()
        self.target_ranks, self._calls, self._address = [], {}, ""

    def _reserve(self, num_drafters: int, note: Callable[[str], None]) -> list[Reservation]:
        """Reserve resources for the target, and after it for each drafter."""
        need = self.spec.drafter_need
        needs = [] if need is None else [need] * num_drafters
        return self._starter.reserve([self.spec.target_need, *needs], note)

    def _start(self, reservations: list[Reservation], note: Callable[[str], None]) -> None:
        spec, drafter = self.spec, self.spec.ranked_drafter
        note(f"starting {spec.tp} target rank(s)")
        self.target_ranks = start_ranks(spec.target, reservations[0])
        groups = []
        if drafter is not None:
            groups = [start_drafter_ranks(drafter, each) for each in reservations[1:]]
        try:
            has_model = drafter is not None and model_of(drafter) is not None
            note("loading the target" + (" and the drafter" if has_model else ""))
            opening = self._starter.open_group(self.target_ranks, spec.target)
            self._starter.load_drafters(drafter, groups, opening)
            with self._adapting:
                self._put_adapters(list(self._adapters.values()))
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
            self._starter.confine()
        host = self._starter.host_of(first, is_reached_here=is_alone)
        listening = first.actor.listen.remote(
            self.spec.leader, self.spec.inline_drafter, host, self._token
        )
        self._address = await_all({listening: first})[listening]
        self._calls[first.actor.lead.remote()] = first
        for rank in self.target_ranks[1:]:
            self._calls[rank.actor.follow.remote()] = rank
        return Leader(rank=first, address=self._address, token=self._token)
