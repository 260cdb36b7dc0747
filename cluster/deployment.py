"""A target group and a drafter group on Ray: started in order, watched, and ended.

Ray places the actors, starts their long-running calls and says when one dies. Tokens do not pass
through it: drivers and drafters reach the leader over links.
"""

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from actors.shard import NgramActor, ShardActor
from parallel.messages import Hello
from runtime.errors import ConfigError, PacelineError, PeerLost, PeerTimeout
from runtime.groups.rendezvous import choose_backend
from runtime.links.grpc_link import connect_grpc
from runtime.links.link import Link
from runtime.settings import LeaderAddress, LeaderSettings, ModelSettings

_START_TIMEOUT_S = 300.0
_STOP_TIMEOUT_S = 10.0
_CONNECT_TIMEOUT_S = 30.0


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
    num_cpus: float = 0.0
    """Ray CPUs each rank reserves."""
    num_gpus: float = 0.0
    host: str = "127.0.0.1"

    @property
    def num_actors(self) -> int:
        """Actors this needs."""
        return self.tp + (self.num_drafters if self.drafter is not None else int(self.ngram))


@dataclass(frozen=True, slots=True)
class _Rank:
    role: str
    rank: int
    actor: Any  # a Ray actor handle, which has no static type

    @property
    def name(self) -> str:
        return f"{self.role} rank {self.rank}"


class Deployment:
    """Running groups; use it as a context manager so that they end."""

    def __init__(self, spec: DeploymentSpec) -> None:
        self.spec = spec
        self.lost_drafters: list[str] = []
        self._token = secrets.token_hex(16)
        self._target: list[_Rank] = []
        self._drafters: list[_Rank] = []
        self._calls: dict[Any, _Rank] = {}
        self._address = ""

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
            ConfigError: a rank cannot load its model.
            PeerError: a rank died or did not get ready in time; names it.
        """
        self._check_resources()
        shard = ray.remote(ShardActor)
        note(f"starting {self.spec.tp} target rank(s)")
        self._target = self._ranks(shard, self.spec.target, self.spec.tp)
        if self.spec.drafter is not None:
            self._drafters = self._ranks(shard, self.spec.drafter, self.spec.num_drafters)
        elif self.spec.ngram:
            ngram = ray.remote(NgramActor)
            self._drafters = [_Rank("drafter", 0, ngram.options(num_cpus=0).remote())]
        note("loading the target" + (" and the drafter" if self.spec.drafter else ""))
        opening = self._open(self._target, self.spec.target)
        if self.spec.drafter is not None:
            opening |= self._open(self._drafters, self.spec.drafter)
        self._await(opening)
        leader = self._target[0]
        listening = leader.actor.listen.remote(self.spec.leader, self.spec.host, self._token)
        self._address = self._await({listening: leader})[listening]
        self._calls[leader.actor.lead.remote()] = leader
        for rank in self._target[1:]:
            self._calls[rank.actor.follow.remote()] = rank
        self._start_drafter()

    def swap_drafter(self, settings: ModelSettings) -> None:
        """Replace the drafter's model while requests run; blocks until the new one is loaded.

        The leader reads from one drafter's link at a time, and with the new link it forgets what it
        asked the old one for: that is the fence, no draft of the old version comes after it.

        Raises:
            ConfigError: the new model cannot be loaded, or there is no model to replace.
            PeerError: a rank died or did not get ready in time; the old drafter stays.
        """
        leader = self._target[0]
        if self.spec.leader.inline_drafter is not None:
            self._await({leader.actor.swap_inline.remote(settings): leader})
            return
        if self.spec.drafter is None or self.spec.link != "grpc":
            raise ConfigError("only a drafter with a model, on a grpc link, can be replaced")
        old, old_calls = self._drafters, [c for c, r in self._calls.items() if r.role == "drafter"]
        new = self._ranks(ray.remote(ShardActor), settings, self.spec.num_drafters)
        try:
            self._await(self._open(new, settings))
        except PacelineError:
            for rank in new:
                ray.kill(rank.actor)
            raise
        for call in old_calls:
            del self._calls[call]
        self._drafters = new
        self._start_drafter()
        # The old one's loop ends when the leader closes its link.
        ray.wait(old_calls, num_returns=len(old_calls), timeout=_STOP_TIMEOUT_S)
        for rank in old:
            ray.kill(rank.actor)

    def connect(self) -> Link:
        """Open a driver's link to the leader."""
        hello = Hello(role="driver", name="driver")
        return connect_grpc(
            self._address, token=self._token, hello=hello, timeout_s=_CONNECT_TIMEOUT_S
        )

    def check(self) -> None:
        """Look whether every rank is alive.

        A dead drafter is noted in `lost_drafters`; the target goes on without it.

        Raises:
            PeerLost: a target rank died; names it.
            PacelineError: the leader's engine ended with an error.
        """
        done, _ = ray.wait(list(self._calls), num_returns=len(self._calls), timeout=0)
        errors: list[PacelineError] = []
        for call in done:
            rank = self._calls.pop(call)
            error = _outcome(call, rank)
            if rank.role == "drafter":
                self.lost_drafters.append(str(error or f"{rank.name} ended"))
            elif error is not None:
                errors.append(error)
        # The rank that died says more than the ones that missed it.
        errors.sort(key=lambda error: not isinstance(error, PeerLost))
        if errors:
            raise errors[0]

    def pids(self, role: str) -> list[int]:
        """Return the process ids of a role's ranks, in rank order."""
        ranks = self._target if role == "target" else self._drafters
        found: list[int] = ray.get([rank.actor.pid.remote() for rank in ranks], timeout=30)
        return found

    def close(self) -> None:
        """End the engine, its followers and the drafters; actors that do not end are killed."""
        if self._address and self._target:
            stopping = self._target[0].actor.stop.remote(_STOP_TIMEOUT_S)
            try:
                ray.get(stopping, timeout=_STOP_TIMEOUT_S)
                ray.wait(list(self._calls), num_returns=len(self._calls), timeout=2.0)
            except (RayActorError, RayTaskError, GetTimeoutError):
                pass  # it is killed below
        for rank in [*self._target, *self._drafters]:
            ray.kill(rank.actor)
        self._target, self._drafters, self._calls, self._address = [], [], {}, ""

    def _check_resources(self) -> None:
        """Refuse what can never be placed: Ray itself would wait for it without end."""
        present = ray.cluster_resources()
        for name, each in (("CPU", self.spec.num_cpus), ("GPU", self.spec.num_gpus)):
            needed = each * self.spec.num_actors
            if needed > present.get(name, 0):
                raise ConfigError(
                    f"{self.spec.num_actors} ranks need {needed:g} {name}, the Ray cluster has "
                    f"{present.get(name, 0):g}: take fewer ranks or a larger cluster"
                )

    def _ranks(self, actor_class: Any, settings: ModelSettings, size: int) -> list[_Rank]:
        made = actor_class.options(
            num_cpus=self.spec.num_cpus, num_gpus=self.spec.num_gpus, max_concurrency=4
        )
        return [_Rank(settings.role, rank, made.remote(settings, rank)) for rank in range(size)]

    def _open(self, ranks: list[_Rank], settings: ModelSettings) -> dict[Any, _Rank]:
        """Start opening a group: rank 0 offers a meeting point, all join and load."""
        size = len(ranks)
        backend = self.spec.group_backend
        if backend == "auto":
            backend = choose_backend(settings.device, same_host=True) if size > 1 else "solo"
        offering = ranks[0].actor.offer.remote(backend, size, self.spec.host)
        spec = self._await({offering: ranks[0]})[offering]
        return {rank.actor.open.remote(spec): rank for rank in ranks}

    def _start_drafter(self) -> None:
        if not self._drafters:
            return
        first = self._drafters[0]
        leader: object = LeaderAddress(address=self._address, token=self._token)
        if self.spec.link != "grpc":
            offering = self._target[0].actor.offer_link.remote(self.spec.link, self.spec.host)
            leader = self._await({offering: self._target[0]})[offering]
        arguments: list[object] = [leader, f"drafter-{secrets.token_hex(2)}"]
        if self.spec.drafter is None:
            arguments.append(self.spec.vocab_size)
        self._calls[first.actor.draft.remote(*arguments)] = first
        for rank in self._drafters[1:]:
            self._calls[rank.actor.follow.remote()] = rank

    def _await(self, calls: dict[Any, _Rank]) -> dict[Any, Any]:
        """Return the calls' results, or raise the first failure with its rank's name."""
        waiting = list(calls)
        results: dict[Any, Any] = {}
        while waiting:
            done, waiting = ray.wait(waiting, timeout=_START_TIMEOUT_S)
            if not done:
                names = ", ".join(calls[call].name for call in waiting)
                raise PeerTimeout(f"{names} not ready within {_START_TIMEOUT_S:.0f} s")
            for call in done:
                error = _outcome(call, calls[call])
                if error is not None:
                    raise error
                results[call] = ray.get(call)
        return results


def _outcome(call: Any, rank: _Rank) -> PacelineError | None:
    """Return why a finished call failed, as an error of ours, or None."""
    try:
        ray.get(call)
    except RayTaskError as error:
        cause = error.cause
        if isinstance(cause, ConfigError):
            return cause
        if isinstance(cause, PacelineError):
            return type(cause)(f"{rank.name}: {cause}")
        return PacelineError(f"{rank.name} failed: {cause!r}")
    except RayActorError as error:
        first_line = str(error).strip().splitlines()[0]
        return PeerLost(f"{rank.name} died: {first_line}")
    return None
