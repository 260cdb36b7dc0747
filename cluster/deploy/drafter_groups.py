"""The drafters of a deployment: they are added, removed and replaced while requests run.

Several groups may draft side by side; the leader gives each request to one of them. No output
depends on any of it.
"""

import logging
import secrets
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import ray

from cluster.deploy.deployment_spec import DeploymentSpec
from cluster.deploy.group_starter import GroupStarter, Leader
from cluster.deploy.rank_actors import RankActor, await_all, is_alive, is_done, kill_ranks
from cluster.network.ray_errors import error_of
from runtime.errors import ConfigError, PacelineError
from runtime.hosts.rank_settings import DrafterSlot, LeaderAddress
from runtime.links.torch_link import TorchLinkSpec
from runtime.restarts import RestartBudget, RestartLimits

_LOG = logging.getLogger("paceline.deployment")
_STOP_TIMEOUT_S = 10.0
_JOIN_TIMEOUT_S = 30.0


@dataclass(slots=True)
class DrafterGroup:
    """One drafter: its ranks, and their calls while it drafts."""

    ranks: list[RankActor]
    name: str = field(default_factory=lambda: f"drafter-{secrets.token_hex(2)}")
    calls: dict[Any, RankActor] = field(default_factory=dict)
    is_lost: bool = False
    """Whether a rank's call has ended, which none does by itself."""


class DrafterGroups:
    """All drafters of one target; each change waits for the one before."""

    def __init__(self, spec: DeploymentSpec, starter: GroupStarter) -> None:
        self.spec = spec
        """What is to draft; changes with `set` and `resize`."""
        self.losses: list[str] = []
        """Why drafters were lost."""
        self.num_replaced = 0
        """How many lost drafters were replaced."""
        self._starter = starter
        self._groups: list[DrafterGroup] = []
        self._leader: Leader | None = None
        self._changing = threading.Lock()
        self._replacing: threading.Thread | None = None
        self._budget = RestartBudget(RestartLimits(most=spec.drafter_restarts))
        self._closing = threading.Event()
        self._has_given_up = False

    @property
    def ranks(self) -> list[RankActor]:
        """Ranks of all groups."""
        return [rank for group in list(self._groups) for rank in group.ranks]

    @property
    def num_groups(self) -> int:
        """Attached drafters."""
        return len(self._groups)

    def begin(self, leader: Leader, loaded: Sequence[list[RankActor]]) -> None:
        """Attach groups that have loaded their models to a leader; blocks until they draft."""
        with self._changing:
            self._closing.clear()
            self._leader = leader
            self._attach_all([DrafterGroup(ranks) for ranks in loaded])

    def set(self, spec: DeploymentSpec) -> None:
        """Replace the drafters by those of another plan; blocks until they draft.

        The leader drops all older links when the first drafter of a new version joins, and forgets
        what it asked them for: that is the fence, no draft of the old version comes after it.

        Raises:
            ConfigError: the drafter cannot be used; the old one stays.
            PeerError: a rank died or did not get ready in time; the old drafter stays.
        """
        if spec.ranked_drafter is not None:
            self._require_grpc()
        with self._changing:
            if self._leader is None:  # the target restarts, and its drafters with it
                self.spec = _with_drafter_of(self.spec, spec)
                return
            leader = self._leader
            old, loaded = self._groups, list[DrafterGroup]()
            if spec.ranked_drafter is not None:
                loaded = self._load(spec, spec.num_drafters)
            self._groups = []  # what ends from now on is no loss
            if spec.ranked_drafter is None:
                self._draft_inline(leader, spec, old)
            self.spec = _with_drafter_of(self.spec, spec)
            self._attach_all(loaded)
            self._end_detached(old)

    def resize(self, num_drafters: int) -> int:
        """Attach or remove drafters until `num_drafters` draft; blocks, returns how many do.

        Raises:
            ConfigError: this drafter has no own process, or the nodes have no capacity.
            PeerError: one did not start; the others draft.
        """
        if self.spec.ranked_drafter is None:
            raise ConfigError("an in-process drafter cannot be scaled: it runs in the leader")
        self._require_grpc()
        with self._changing:
            leader = self._leader
            if leader is None:
                self.spec = replace(self.spec, num_drafters=num_drafters)
                return num_drafters
            surplus = self._groups[num_drafters:]
            del self._groups[num_drafters:]
            for group in surplus:
                await_all({leader.rank.actor.leave.remote(group.name): leader.rank})
            self._end_detached(surplus)
            self.spec = replace(self.spec, num_drafters=num_drafters)
            self._attach_all(self._load(self.spec, num_drafters - len(self._groups)))
            return len(self._groups)

    def check(self) -> None:
        """Find drafters that ended, and start to replace them."""
        for group in list(self._groups):
            for call in [call for call in group.calls if is_done(call)]:
                if group not in self._groups:
                    break  # it was removed meanwhile
                rank = group.calls.pop(call)
                group.is_lost = True
                self.losses.append(str(error_of(call, rank.name) or f"{rank.name} ended"))
        self._start_replacing()

    def kill(self, stuck: Iterable[RankActor]) -> None:
        """Kill ranks that make no progress; their groups are replaced."""
        for rank in stuck:
            _LOG.error("killing %s: it is stuck", rank.name)
            ray.kill(rank.actor)

    def freeze(self) -> None:
        """Stop replacing lost drafters: the deployment is about to end."""
        self._closing.set()

    def end(self) -> None:
        """End all drafters, with their leader."""
        self._closing.set()
        replacing = self._replacing
        if replacing is not None:
            replacing.join(_STOP_TIMEOUT_S)
        kill_ranks(self.ranks)
        self._groups, self._leader, self._replacing = [], None, None

    def _require_grpc(self) -> None:
        if self.spec.link != "grpc":
            raise ConfigError(
                f"`link` is {self.spec.link}, which attaches one drafter for good: take grpc to "
                "change drafters"
            )

    def _draft_inline(self, leader: Leader, spec: DeploymentSpec, old: list[DrafterGroup]) -> None:
        changing = leader.rank.actor.draft_inline.remote(spec.inline_drafter)
        try:
            await_all({changing: leader.rank})
        except PacelineError:
            self._groups = old
            raise

    def _load(self, spec: DeploymentSpec, num: int) -> list[DrafterGroup]:
        """Return new groups that have loaded their models; none if one of them cannot."""
        need, drafter = spec.drafter_need, spec.ranked_drafter
        assert need is not None
        assert drafter is not None
        loaded = self._starter.start_drafters(drafter, [need] * max(num, 0), _LOG.info)
        return [DrafterGroup(ranks) for ranks in loaded]

    def _attach_all(self, groups: Sequence[DrafterGroup]) -> None:
        """Attach groups; the first one replaces the leader's drafter if no group is attached."""
        for group in groups:
            self._attach(group, joins=bool(self._groups))
            self._groups.append(group)

    def _attach(self, group: DrafterGroup, *, joins: bool) -> None:
        """Attach a group to the leader; blocks until it has joined."""
        leader = self._leader
        assert leader is not None, "begin() comes first"
        first, leading = group.ranks[0], leader.rank
        asking = leading.actor.await_drafter.remote(0, 0.0)
        num_attached = await_all({asking: leading})[asking]
        address = self._leader_address(leader, first)
        slot = DrafterSlot(leader=address, name=group.name, joins=joins)
        drafting = first.actor.draft.remote(slot)
        group.calls[drafting] = first
        for rank in group.ranks[1:]:
            group.calls[rank.actor.follow.remote()] = rank
        attached = leading.actor.await_drafter.remote(num_attached, _JOIN_TIMEOUT_S)
        # One that fails before it has joined is found by `check`: the target continues without it.
        ray.wait([attached, drafting], timeout=_JOIN_TIMEOUT_S)

    def _leader_address(self, leader: Leader, first: RankActor) -> LeaderAddress | TorchLinkSpec:
        """Return where a drafter's rank 0 reaches the leader."""
        if self.spec.link == "grpc":
            return LeaderAddress(address=leader.address, token=leader.token)
        leading = leader.rank
        is_same_node = first.node.node_id == leading.node.node_id
        host = self._starter.host_of(leading, is_reached_here=is_same_node)
        offering = leading.actor.offer_link.remote(self.spec.link, host)
        offered: TorchLinkSpec = await_all({offering: leading})[offering]
        return offered

    def _end_detached(self, groups: Sequence[DrafterGroup]) -> None:
        """End groups whose links the leader has closed, which ends their loops."""
        calls = [call for group in groups for call in group.calls]
        if calls:
            ray.wait(calls, num_returns=len(calls), timeout=_STOP_TIMEOUT_S)
        kill_ranks([rank for group in groups for rank in group.ranks])

    # --- losses -------------------------------------------------------------------------------

    def _start_replacing(self) -> None:
        """Replace lost groups in a thread, while requests run."""
        is_ranked = self.spec.ranked_drafter is not None
        is_short = is_ranked and len(self._groups) < self.spec.num_drafters
        is_lost = any(group.is_lost for group in list(self._groups))
        is_idle = self._replacing is None and not self._changing.locked()
        can_attach = self.spec.link == "grpc" and self._leader is not None
        if not (can_attach and is_idle and (is_short or is_lost)):
            return
        pause_s = self._budget.take(time.monotonic())
        if pause_s is None:
            if not self._has_given_up:
                _LOG.error("drafters were lost too often: requests run without drafts for now")
            self._has_given_up = True
        else:
            self._has_given_up = False
            self._replacing = threading.Thread(
                target=self._replace_after, args=(pause_s,), daemon=True, name="replacing drafters"
            )
            self._replacing.start()

    def _replace_after(self, pause_s: float) -> None:
        try:
            if not self._closing.wait(pause_s):
                with self._changing:
                    self._replace_lost()
                self._budget.note_running(time.monotonic())
        except PacelineError as error:
            _LOG.warning("the lost drafter cannot be replaced: %s", error)
        finally:
            self._replacing = None

    def _replace_lost(self) -> None:
        """Start a group for each missing one, with as many ranks as a lost one has left."""
        need, drafter = self.spec.drafter_need, self.spec.ranked_drafter
        if need is None or drafter is None or self._leader is None:
            return
        sizes = [self._remove(group) for group in list(self._groups) if group.is_lost]
        num_missing = self.spec.num_drafters - len(self._groups)
        sizes = (sizes + [need.size] * num_missing)[:num_missing]
        for size in sizes:
            if self._closing.is_set():
                return
            needs = [replace(need, size=size)]
            (loaded,) = self._starter.start_drafters(drafter, needs, _LOG.info)
            group = DrafterGroup(loaded)
            if self._closing.is_set():  # meanwhile
                kill_ranks(loaded)
                return
            self._attach(group, joins=True)
            self._groups.append(group)
            self.num_replaced += 1
            _LOG.warning("started a drafter group of %d rank(s)", len(loaded))

    def _remove(self, group: DrafterGroup) -> int:
        """Remove a lost group; return how many of its ranks are alive."""
        # The loss ends the calls of its other ranks at once; a call that does not end is stuck.
        calls = dict(group.calls)  # `check` removes those that ended, in another thread
        if calls:
            ray.wait(list(calls), num_returns=len(calls), timeout=_STOP_TIMEOUT_S)
        stuck = [rank for call, rank in calls.items() if not is_done(call)]
        alive = [rank for rank in group.ranks if rank not in stuck and is_alive(rank)]
        assert self._leader is not None
        leader = self._leader.rank
        await_all({leader.actor.leave.remote(group.name): leader})
        self._groups.remove(group)
        kill_ranks(group.ranks)
        return max(1, len(alive))


def _with_drafter_of(spec: DeploymentSpec, other: DeploymentSpec) -> DeploymentSpec:
    """Return a plan with another one's drafters."""
    return replace(spec, drafter=other.drafter, num_drafters=other.num_drafters)
