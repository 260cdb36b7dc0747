"""The drafters of a deployment: they come, go, break and are replaced while requests run.

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
from cluster.deploy.rank_actors import RankActor, answers, await_all, is_done, kill_ranks, outcome
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
    """Whether a rank's call has ended, which none does of itself."""


class DrafterGroups:
    """All drafters of one target; each change happens after the one before."""

    def __init__(self, spec: DeploymentSpec, opener: GroupStarter) -> None:
        self.spec = spec
        """What is to draft; changes with `set` and `resize`."""
        self.losses: list[str] = []
        """Why drafters were lost."""
        self.num_replaced = 0
        """Times another one was started in place of a lost one."""
        self._opener = opener
        self._groups: list[DrafterGroup] = []
        self._leader: Leader | None = None
        self._changing = threading.Lock()
        self._mending: threading.Thread | None = None
        self._budget = RestartBudget(RestartLimits(most=spec.drafter_restarts))
        self._closing = threading.Event()
        self._is_given_up = False

    @property
    def ranks(self) -> list[RankActor]:
        """Ranks of all groups."""
        return [rank for group in list(self._groups) for rank in group.ranks]

    @property
    def num_groups(self) -> int:
        """Drafters that draft."""
        return len(self._groups)

    def begin(self, leader: Leader, opened: Sequence[list[RankActor]]) -> None:
        """Let groups that have loaded their models draft for a leader; blocks until they do."""
        with self._changing:
            self._closing.clear()
            self._leader = leader
            self._take([DrafterGroup(ranks) for ranks in opened])

    def set(self, spec: DeploymentSpec) -> None:
        """Draft as another plan says; blocks until that is so.

        The leader drops all older links when the first drafter of a new version joins, and forgets
        what it asked them for: that is the fence, no draft of the old version comes after it.

        Raises:
            ConfigError: the drafter cannot be used; the old one stays.
            PeerError: a rank died or did not get ready in time; the old drafter stays.
        """
        if spec.has_drafter_ranks:
            self._require_grpc()
        with self._changing:
            if self._leader is None:  # the target is being started anew, and its drafters with it
                self.spec = _drafting_as(self.spec, spec)
                return
            leader = self._leader
            old, opened = self._groups, list[DrafterGroup]()
            if spec.has_drafter_ranks:
                opened = self._opened(spec, spec.drafter_groups)
            self._groups = []  # what ends from now on is no loss
            if not spec.has_drafter_ranks:
                self._draft_inline(leader, spec, old)
            self.spec = _drafting_as(self.spec, spec)
            self._take(opened)
            self._dismiss(old)

    def resize(self, num_groups: int) -> int:
        """Let so many drafters draft side by side; blocks, and returns how many do.

        Raises:
            ConfigError: this drafter has no process of its own, or there is no room.
            PeerError: one did not start; the others draft.
        """
        if not self.spec.has_drafter_ranks:
            raise ConfigError(
                "the drafter works in the leader's process: there can be no other number of it"
            )
        self._require_grpc()
        with self._changing:
            leader = self._leader
            if leader is None:
                self.spec = replace(self.spec, drafter_groups=num_groups)
                return num_groups
            surplus = self._groups[num_groups:]
            del self._groups[num_groups:]
            for group in surplus:
                await_all({leader.rank.actor.leave.remote(group.name): leader.rank})
            self._dismiss(surplus)
            self.spec = replace(self.spec, drafter_groups=num_groups)
            self._take(self._opened(self.spec, num_groups - len(self._groups)))
            return len(self._groups)

    def check(self) -> None:
        """Look whether all drafters draft; others are started in place of those that do not."""
        for group in list(self._groups):
            for call in [call for call in group.calls if is_done(call)]:
                if group not in self._groups:
                    break  # it was dismissed meanwhile
                rank = group.calls.pop(call)
                group.is_lost = True
                self.losses.append(str(outcome(call, rank) or f"{rank.name} ended"))
        self._mend()

    def drop(self, stuck: Iterable[RankActor]) -> None:
        """Kill ranks that do not get on; their groups are replaced."""
        for rank in stuck:
            _LOG.error("killing %s: it is stuck", rank.name)
            ray.kill(rank.actor)

    def freeze(self) -> None:
        """Start nothing any longer in place of what is lost: the end is near."""
        self._closing.set()

    def end(self) -> None:
        """End all drafters, with their leader."""
        self._closing.set()
        mending = self._mending
        if mending is not None:
            mending.join(_STOP_TIMEOUT_S)
        kill_ranks(self.ranks)
        self._groups, self._leader, self._mending = [], None, None

    def _require_grpc(self) -> None:
        if self.spec.link != "grpc":
            raise ConfigError(
                f"the drafter's link is {self.spec.link}, made for one drafter: serve with "
                "--link grpc to change drafters"
            )

    def _draft_inline(self, leader: Leader, spec: DeploymentSpec, old: list[DrafterGroup]) -> None:
        changing = leader.rank.actor.draft_inline.remote(spec.leader)
        try:
            await_all({changing: leader.rank})
        except PacelineError:
            self._groups = old
            raise

    def _opened(self, spec: DeploymentSpec, num: int) -> list[DrafterGroup]:
        """Return new groups that have loaded their models; none if one of them cannot."""
        need = spec.drafter_need
        assert need is not None
        opened = self._opener.opened(spec.drafter, [need] * max(num, 0), _LOG.info)
        return [DrafterGroup(ranks) for ranks in opened]

    def _take(self, groups: Sequence[DrafterGroup]) -> None:
        """Let groups draft; the first one replaces whatever drafted if there is no other now."""
        for group in groups:
            self._start(group, joins=bool(self._groups))
            self._groups.append(group)

    def _start(self, group: DrafterGroup, *, joins: bool) -> None:
        """Let a group draft for the leader; blocks until it has joined."""
        leader = self._leader
        assert leader is not None, "begin() comes first"
        first, leading, spec = group.ranks[0], leader.rank, self.spec
        asking = leading.actor.await_drafter.remote(0, 0.0)
        num_met = await_all({asking: leading})[asking]
        place: LeaderAddress | TorchLinkSpec
        place = LeaderAddress(address=leader.address, token=leader.token)
        if spec.link != "grpc":
            here = {rank.node.node_id for rank in (first, leading)}
            host = self._opener.host_of(leading, is_reached_here=len(here) == 1)
            offering = leading.actor.offer_link.remote(spec.link, host)
            place = await_all({offering: leading})[offering]
        arguments: list[object] = [DrafterSlot(leader=place, name=group.name, joins=joins)]
        if spec.drafter is None:
            arguments.append(spec.vocab_size)
        drafting = first.actor.draft.remote(*arguments)
        group.calls[drafting] = first
        for rank in group.ranks[1:]:
            group.calls[rank.actor.follow.remote()] = rank
        met = leading.actor.await_drafter.remote(num_met, _JOIN_TIMEOUT_S)
        # One that fails before it has joined is found by `check`: the target goes on without it.
        ray.wait([met, drafting], timeout=_JOIN_TIMEOUT_S)

    def _dismiss(self, groups: Sequence[DrafterGroup]) -> None:
        """End groups whose links the leader has closed: their loops end with these."""
        calls = [call for group in groups for call in group.calls]
        if calls:
            ray.wait(calls, num_returns=len(calls), timeout=_STOP_TIMEOUT_S)
        kill_ranks([rank for group in groups for rank in group.ranks])

    # --- losses -------------------------------------------------------------------------------

    def _mend(self) -> None:
        """Start others in place of lost groups, in a thread: requests go on meanwhile."""
        short = len(self._groups) < self.spec.drafter_groups and self.spec.has_drafter_ranks
        lost = any(group.is_lost for group in list(self._groups))
        can = self.spec.link == "grpc"
        idle = self._mending is None and not self._changing.locked()
        if not (can and idle and (short or lost)) or self._leader is None:
            return
        pause_s = self._budget.take(time.monotonic())
        if pause_s is None:
            if not self._is_given_up:
                _LOG.error("drafters were lost too often: requests run without drafts for now")
            self._is_given_up = True
        else:
            self._is_given_up = False
            self._mending = threading.Thread(
                target=self._start_others, args=(pause_s,), daemon=True, name="mending"
            )
            self._mending.start()

    def _start_others(self, pause_s: float) -> None:
        try:
            if not self._closing.wait(pause_s):
                with self._changing:
                    self._replace_lost()
                self._budget.note_running(time.monotonic())
        except PacelineError as error:
            _LOG.warning("no drafter could be started in place of the lost one: %s", error)
        finally:
            self._mending = None

    def _replace_lost(self) -> None:
        """Start a group for each one that is missing, with as many ranks as a lost one has left."""
        need = self.spec.drafter_need
        if need is None or self._leader is None:
            return
        sizes = [self._remove(group) for group in list(self._groups) if group.is_lost]
        missing = self.spec.drafter_groups - len(self._groups)
        sizes = (sizes + [need.size] * missing)[:missing]
        for size in sizes:
            if self._closing.is_set():
                return
            needs = [replace(need, size=size)]
            (opened,) = self._opener.opened(self.spec.drafter, needs, _LOG.info)
            group = DrafterGroup(opened)
            if self._closing.is_set():  # meanwhile
                kill_ranks(opened)
                return
            self._start(group, joins=True)
            self._groups.append(group)
            self.num_replaced += 1
            _LOG.warning("started a drafter group of %d rank(s)", len(opened))

    def _remove(self, group: DrafterGroup) -> int:
        """Remove a lost group; return how many ranks it has left."""
        # They hear of the loss at once; who does not is stuck.
        calls = dict(group.calls)  # `check` takes out what has ended, in another thread
        if calls:
            ray.wait(list(calls), num_returns=len(calls), timeout=_STOP_TIMEOUT_S)
        stuck = [rank for call, rank in calls.items() if not is_done(call)]
        left = [rank for rank in group.ranks if rank not in stuck and answers(rank)]
        assert self._leader is not None
        leader = self._leader.rank
        await_all({leader.actor.leave.remote(group.name): leader})
        self._groups.remove(group)
        kill_ranks(group.ranks)
        return max(1, len(left))


def _drafting_as(spec: DeploymentSpec, other: DeploymentSpec) -> DeploymentSpec:
    """Return a plan with another one's drafters."""
    return replace(
        spec,
        leader=other.leader,
        drafter=other.drafter,
        num_drafters=other.num_drafters,
        drafter_groups=other.drafter_groups,
        ngram=other.ngram,
    )
