"""Ray shells of the model ranks: the target's leader, the drafter's leader and their followers."""

import os

from parallel.model.low_rank import Adapter
from runtime.groups.rendezvous import GroupSpec
from runtime.heartbeat import Beat, Pulse
from runtime.hosts.drafter_host import serve_model_drafter, serve_ngrams
from runtime.hosts.drafter_spec import InlineDrafterSpec
from runtime.hosts.leader_host import LeaderHost
from runtime.hosts.model_host import ModelHost
from runtime.hosts.rank_settings import DrafterSlot, LeaderSettings, ModelSettings
from runtime.links.torch_link import TorchLinkSpec
from runtime.node.network_interfaces import address_on
from runtime.timeline import PhaseSpan


class ShardActor:
    """One rank of the target or of the drafter group."""

    def __init__(self, settings: ModelSettings, rank: int) -> None:
        self._settings = settings
        self._host = ModelHost(settings, rank)
        self._leader: LeaderHost | None = None

    def pid(self) -> int:
        """Return this process's id."""
        return os.getpid()

    def address_on(self, interface: str) -> str:
        """Return this node's address on an interface or in a network."""
        return address_on(interface)

    def beat(self) -> Beat:
        """Return what this rank does now and since when."""
        return self._host.pulse.beat()

    def offer(self, backend: str, size: int, host: str) -> GroupSpec:
        """Open the group's meeting point (rank 0)."""
        return self._host.offer(backend, size, host)

    def open(self, spec: GroupSpec) -> None:
        """Join the group and load the shard; blocks until all ranks have joined."""
        self._host.open(spec)

    def add_adapter(self, adapter: Adapter) -> None:
        """Hold an adapter of the target."""
        self._host.add_adapter(adapter)

    def remove_adapter(self, name: str) -> None:
        """Drop an adapter that no request uses."""
        self._host.remove_adapter(name)

    def listen(
        self, settings: LeaderSettings, drafter: InlineDrafterSpec, host: str, token: str
    ) -> str:
        """Start the target leader's link server and return its address."""
        self._leader = LeaderHost(self._host, settings, self._settings.num_threads)
        return self._leader.listen(drafter, host, token)

    def lead(self) -> None:
        """Run the target leader's engine until `stop`; blocks."""
        self._leading.serve()

    def stop(self, timeout_s: float) -> None:
        """End `lead` after its round."""
        if self._leader is not None:
            self._leader.stop(timeout_s)

    def draft_inline(self, drafter: InlineDrafterSpec) -> None:
        """Replace the drafter in the leader's thread."""
        self._leading.draft_inline(drafter)

    def spans(self) -> tuple[PhaseSpan, ...]:
        """Return when this rank worked since the last call, if it records that."""
        return self._host.recorder.take() if self._host.recorder is not None else ()

    def leave(self, drafter: str) -> None:
        """Detach a drafter, by its name; its requests continue with others or without."""
        self._leading.leave(drafter)

    def offer_link(self, backend: str, host: str) -> TorchLinkSpec:
        """Make the target's leader wait for a drafter on a torch.distributed link."""
        return self._leading.offer_link(backend, host)

    def await_drafter(self, num_attached: int, timeout_s: float) -> int:
        """Wait until more than `num_attached` drafters have attached so far; return how many."""
        return self._leading.await_drafter(num_attached, timeout_s)

    def draft(self, slot: DrafterSlot) -> None:
        """Answer the target leader's draft requests until it ends; blocks."""
        serve_model_drafter(self._host, slot, num_threads=self._settings.num_threads)

    def follow(self) -> None:
        """Carry out rank 0's plans until it ends; blocks."""
        self._host.follow()

    @property
    def _leading(self) -> LeaderHost:
        assert self._leader is not None, "listen() comes first"
        return self._leader


class NgramActor:
    """A drafter without a model: copies from prompt and output."""

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._pulse = Pulse()

    def pid(self) -> int:
        """Return this process's id."""
        return os.getpid()

    def beat(self) -> Beat:
        """Return what this drafter does now and since when."""
        return self._pulse.beat()

    def spans(self) -> tuple[PhaseSpan, ...]:
        """Return nothing: look-ups are too short to record."""
        return ()

    def draft(self, slot: DrafterSlot) -> None:
        """Answer the target leader's draft requests until it ends; blocks."""
        serve_ngrams(slot, vocab_size=self._vocab_size, pulse=self._pulse)
