"""A target group and a drafter group on Ray: started in order, watched, and ended.

Ray places the actors, starts their long-running calls and says when one dies. Tokens do not pass
through it: drivers and drafters reach the leader over links.
"""

import logging
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from cluster.placement import Need, PlaceOptions
from cluster.ranks import (
    Rank,
    answers,
    await_all,
    is_done,
    kill_ranks,
    outcome,
    start_ranks,
    whereabouts,
)
from cluster.reservation import LOOPBACK, Placer, check_group, read_nodes
from parallel.messages import Hello
from runtime.errors import ConfigError, PacelineError, PeerLost
from runtime.groups.rendezvous import choose_backend
from runtime.links.grpc_link import connect_grpc
from runtime.links.link import Link
from runtime.settings import LeaderAddress, LeaderSettings, ModelSettings
from runtime.timeline import PhaseSpan

_LOG = logging.getLogger("paceline.deployment")
_STOP_TIMEOUT_S = 10.0
_CONNECT_TIMEOUT_S = 30.0
_MOST_MENDED = 3
"""Times a broken drafter group is started anew; one that breaks more often stays away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentSpec:
    """What to start."""

    target: ModelSettings
    tp: int
    leader: LeaderSettings
    drafter: ModelSettings | None
    """None with `ngram` false means no drafter."""
    num_drafters: int = 0
    ngram: bool = False
    vocab_size: int = 0
    """The target's; an n-gram drafter announces it."""
    group_backend: str = "auto"
    link: str = "grpc"
    """Between leader and drafter: grpc, gloo or nccl."""
    place: PlaceOptions = field(default_factory=PlaceOptions)
    """Which nodes the ranks go to, and what they reserve there."""
    num_gpus: float = 0.0
    """Of each rank with a model."""
    target_bytes: int = 0
    """Memory that each target rank reserves on its node; 0 reserves none."""
    drafter_bytes: int = 0
    """The same of each drafter rank."""

    @property
    def num_actors(self) -> int:
        """Actors this needs."""
        return self.tp + (self.num_drafters if self.drafter is not None else int(self.ngram))

    @property
    def target_need(self) -> Need:
        """The room of the target's ranks."""
        return Need(role="target", size=self.tp, gpus=self.num_gpus, memory=self.target_bytes)

    @property
    def drafter_need(self) -> Need | None:
        """The room of the drafter's ranks; None if it has none."""
        if self.drafter is None:
            return Need(role="drafter", size=1) if self.ngram else None
        return Need(
            role="drafter", size=self.num_drafters, gpus=self.num_gpus, memory=self.drafter_bytes
        )


class Deployment:
    """Running groups; use it as a context manager so that they end."""

    def __init__(self, spec: DeploymentSpec) -> None:
        self.spec = spec
        self.lost_drafters: list[str] = []
        self._token = secrets.token_hex(16)
        self._placer = Placer(spec.place)
        self._target: list[Rank] = []
        self._drafters: list[Rank] = []
        self._calls: dict[Any, Rank] = {}
        self._address = ""
        self._drafting = spec.drafter
        self._changing = threading.Lock()
        self._mending: threading.Thread | None = None
        self.num_mended = 0
        self._num_tries = 0
        self._closing = False

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

    def start(self, note: Callable[[str], None]) -> None:
        """Start the target, then the drafter; blocks until both are ready.

        Args:
            note: told what is being waited for, for a progress display.

        Raises:
            ConfigError: the nodes have no room for a rank, or it cannot load its model.
            PeerError: a rank died or did not get ready in time; names it.
        """
        needs = [self.spec.target_need, self.spec.drafter_need]
        rooms = self._placer.place([need for need in needs if need is not None], note)
        check_group(rooms, self.spec.group_backend)
        note(f"starting {self.spec.tp} target rank(s)")
        self._target = start_ranks(self.spec.target, rooms[0])
        if len(rooms) > 1:
            self._drafters = start_ranks(self.spec.drafter, rooms[1])
        note("loading the target" + (" and the drafter" if self.spec.drafter else ""))
        opening = self._open(self._target, self.spec.target)
        if self.spec.drafter is not None:
            opening |= self._open(self._drafters, self.spec.drafter)
        await_all(opening)
        leader = self._target[0]
        is_alone = len(read_nodes()) == 1
        if is_alone:
            self._placer.confine()
        host = self._host_of(leader, is_reached_here=is_alone)
        listening = leader.actor.listen.remote(self.spec.leader, host, self._token)
        self._address = await_all({listening: leader})[listening]
        self._calls[leader.actor.lead.remote()] = leader
        for rank in self._target[1:]:
            self._calls[rank.actor.follow.remote()] = rank
        self._start_drafter()

    def swap_drafter(self, settings: ModelSettings, num_drafters: int | None = None) -> None:
        """Replace the drafter's model while requests run; blocks until the new one drafts.

        Args:
            settings: the new model.
            num_drafters: the ranks it gets; None: as many as were planned.

        Raises:
            ConfigError: the new model cannot be loaded, or there is no model to replace.
            PeerError: a rank died or did not get ready in time; the old drafter stays.
        """
        inline = self.spec.leader.inline_drafter is not None
        if not inline and self.spec.drafter is None:
            raise ConfigError("there is no drafter with a model to replace")
        leader = replace(self.spec.leader, inline_drafter=settings if inline else None)
        self.set_drafter(
            replace(
                self.spec,
                drafter=None if inline else settings,
                num_drafters=0 if inline else num_drafters or self.spec.num_drafters,
                leader=leader,
            )
        )

    def set_drafter(self, spec: DeploymentSpec) -> None:
        """Draft as another plan says while requests run; blocks until that is so.

        The leader reads from one drafter's link at a time, and with the new link it forgets what it
        asked the old one for: that is the fence, no draft of the old version comes after it.

        Args:
            spec: a plan for the same target; only its drafter counts, which may be none.

        Raises:
            ConfigError: the drafter cannot be used; the old one stays.
            PeerError: a rank died or did not get ready in time; the old drafter stays.
        """
        has_ranks = spec.drafter is not None or spec.ngram
        if has_ranks and self.spec.link != "grpc":
            raise ConfigError(
                f"the drafter's link is {self.spec.link}, made for one drafter: serve with "
                "--link grpc to change drafters"
            )
        leader = self._target[0]
        with self._changing:
            old, old_calls = self._drafters, self._drafter_calls()
            new: list[Rank] = []
            need = spec.drafter_need
            if need is not None:
                new = self._opened(spec.drafter, need)
            else:
                changing = leader.actor.draft_inline.remote(spec.leader)
                await_all({changing: leader})
            for call in old_calls:
                self._calls.pop(call, None)
            self._drafters, self._drafting = new, spec.drafter
            self.spec = replace(
                self.spec,
                leader=spec.leader,
                drafter=spec.drafter,
                num_drafters=spec.num_drafters,
                ngram=spec.ngram,
            )
            self._start_drafter()
            # The old one's loop ends when the leader closes its link.
            if old_calls:
                ray.wait(old_calls, num_returns=len(old_calls), timeout=_STOP_TIMEOUT_S)
            kill_ranks(old)

    @property
    def whereabouts(self) -> str:
        """On which nodes the ranks are, for people; "" where everything is on this one."""
        return whereabouts([*self._target, *self._drafters])

    def connect(self) -> Link:
        """Open a driver's link to the leader."""
        hello = Hello(role="driver", name="driver")
        return connect_grpc(
            self._address, token=self._token, hello=hello, timeout_s=_CONNECT_TIMEOUT_S
        )

    def check(self) -> None:
        """Look whether every rank is alive.

        A dead drafter is noted in `lost_drafters`; the target goes on without it, until a group of
        the ranks that are left has been started in its place.

        Raises:
            PeerLost: a target rank died; names it.
            PacelineError: the leader's engine ended with an error.
        """
        done, _ = ray.wait(list(self._calls), num_returns=len(self._calls), timeout=0)
        errors: list[PacelineError] = []
        for call in done:
            rank = self._calls.pop(call, None)
            if rank is None:
                continue  # its group was replaced meanwhile
            error = outcome(call, rank)
            if rank.role == "drafter":
                self.lost_drafters.append(str(error or f"{rank.name} ended"))
                self._mend()
            elif error is not None:
                errors.append(error)
        # The rank that died says more than the ones that missed it.
        errors.sort(key=lambda error: not isinstance(error, PeerLost))
        if errors:
            raise errors[0]

    def _mend(self) -> None:
        """Start another drafter group, once for each time that one breaks."""
        mendable = self._drafting is not None and self.spec.link == "grpc"
        if not mendable or self._mending is not None or self._num_tries >= _MOST_MENDED:
            return
        self._num_tries += 1
        self._mending = threading.Thread(target=self._start_another, daemon=True)
        self._mending.start()

    def _start_another(self) -> None:
        """Start a drafter group with as many ranks as the broken one has left."""
        with self._changing:
            calls = self._drafter_calls()
            if calls:  # they hear of the loss at once; who does not is stuck
                ray.wait(calls, num_returns=len(calls), timeout=_STOP_TIMEOUT_S)
            stuck = [self._calls[call] for call in calls if not is_done(call)]
            for call in calls:
                self._calls.pop(call, None)
            left = [rank for rank in self._drafters if rank not in stuck and answers(rank)]
            kill_ranks(self._drafters)
            self._drafters = []
            assert self._drafting is not None
            try:
                if not self._closing:
                    need = self.spec.drafter_need
                    assert need is not None
                    another = self._opened(self._drafting, replace(need, size=max(1, len(left))))
                    if self._closing:  # meanwhile
                        kill_ranks(another)
                        return
                    self._drafters = another
                    self._start_drafter()
                    self.num_mended += 1
                    _LOG.warning("started a drafter group of %d rank(s)", len(another))
            except PacelineError as error:
                _LOG.warning("no drafter could be started in place of the lost one: %s", error)
            self._mending = None

    def _drafter_calls(self) -> list[Any]:
        return [call for call, rank in list(self._calls.items()) if rank.role == "drafter"]

    def _opened(self, settings: ModelSettings | None, need: Need) -> list[Rank]:
        """Return the ranks of a new drafter group that has loaded its model, if it has one."""
        (room,) = rooms = self._placer.place([need], _LOG.info)
        check_group(rooms, self.spec.group_backend)
        new = start_ranks(settings, room)
        try:
            if settings is not None:
                await_all(self._open(new, settings))
        except PacelineError:
            kill_ranks(new)
            raise
        return new

    def pids(self, role: str) -> list[int]:
        """Return the process ids of a role's ranks, in rank order."""
        ranks = self._target if role == "target" else self._drafters
        found: list[int] = ray.get([rank.actor.pid.remote() for rank in ranks], timeout=30)
        return found

    def spans(self) -> list[PhaseSpan]:
        """Return when leader and drafter worked since this was last asked, if they keep it."""
        models = self._target[:1] + ([] if self.spec.ngram else self._drafters[:1])
        taken = ray.get([rank.actor.spans.remote() for rank in models], timeout=30)
        return [span for spans in taken for span in spans]

    def close(self) -> None:
        """End the engine, its followers and the drafters; actors that do not end are killed."""
        if self._address and self._target:
            stopping = self._target[0].actor.stop.remote(_STOP_TIMEOUT_S)
            try:
                ray.get(stopping, timeout=_STOP_TIMEOUT_S)
                ray.wait(list(self._calls), num_returns=len(self._calls), timeout=2.0)
            except (RayActorError, RayTaskError, GetTimeoutError):
                pass  # it is killed below
        self._closing = True
        mending = self._mending
        if mending is not None:
            mending.join(_STOP_TIMEOUT_S)
        kill_ranks([*self._target, *self._drafters])
        self._target, self._drafters, self._calls, self._address = [], [], {}, ""

    def _open(self, ranks: list[Rank], settings: ModelSettings) -> dict[Any, Rank]:
        """Start opening a group: rank 0 offers a meeting point, all join and load."""
        size, same_host = len(ranks), len({rank.node.node_id for rank in ranks}) == 1
        backend = self.spec.group_backend
        if backend == "auto":
            backend = choose_backend(settings.device, same_host=same_host) if size > 1 else "solo"
        host = self._host_of(ranks[0], is_reached_here=same_host)
        offering = ranks[0].actor.offer.remote(backend, size, host)
        spec = await_all({offering: ranks[0]})[offering]
        return {rank.actor.open.remote(spec): rank for rank in ranks}

    def _host_of(self, rank: Rank, *, is_reached_here: bool) -> str:
        """Return the address a rank listens on: none that other nodes reach unless one has to."""
        if is_reached_here:
            return LOOPBACK
        if self.spec.place.interface is None:
            return rank.node.address
        asking = rank.actor.address_on.remote(self.spec.place.interface)
        address: str = await_all({asking: rank})[asking]
        return address

    def _start_drafter(self) -> None:
        """Let the drafter draft for the leader; blocks until it has joined."""
        if not self._drafters:
            return
        first, leading = self._drafters[0], self._target[0]
        asking = leading.actor.await_drafter.remote(0, 0.0)
        num_met = await_all({asking: leading})[asking]
        leader: object = LeaderAddress(address=self._address, token=self._token)
        if self.spec.link != "grpc":
            here = {rank.node.node_id for rank in (first, leading)}
            host = self._host_of(leading, is_reached_here=len(here) == 1)
            offering = leading.actor.offer_link.remote(self.spec.link, host)
            leader = await_all({offering: self._target[0]})[offering]
        arguments: list[object] = [leader, f"drafter-{secrets.token_hex(2)}"]
        if self.spec.drafter is None:
            arguments.append(self.spec.vocab_size)
        drafting = first.actor.draft.remote(*arguments)
        self._calls[drafting] = first
        for rank in self._drafters[1:]:
            self._calls[rank.actor.follow.remote()] = rank
        met = leading.actor.await_drafter.remote(num_met, _CONNECT_TIMEOUT_S)
        # One that fails before it has joined is found by `check`: the target goes on without it.
        ray.wait([met, drafting], timeout=_CONNECT_TIMEOUT_S)
