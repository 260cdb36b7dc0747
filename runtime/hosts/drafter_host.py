"""The process of a drafter: attaches to its leader and answers it."""

from parallel.messages import Hello
from runtime.clock import MonotonicClock
from runtime.drafters.drafting import Drafter, introduction, serve_drafts
from runtime.drafters.lookup_drafting import LookupDrafter
from runtime.drafters.lookups.lookup_settings import LookupSettings
from runtime.drafters.lookups.ngram_lookup import NgramLookup
from runtime.heartbeat import ENDED, Pulse
from runtime.hosts.leader_host import CONNECT_TIMEOUT_S, HEARTBEAT_S
from runtime.hosts.model_host import ModelHost
from runtime.hosts.rank_settings import DrafterSlot, LeaderAddress
from runtime.hosts.torch_threads import use_threads
from runtime.links.grpc_link import connect_grpc
from runtime.links.link import Link
from runtime.links.torch_link import TorchLinkSpec, join_torch_link
from runtime.timeline import Recorder


def serve_model_drafter(model: ModelHost, slot: DrafterSlot, *, num_threads: int) -> None:
    """Draft with a model until the leader ends; blocks.

    Args:
        model: rank 0 of the drafter group.
        slot: how to reach the leader.
        num_threads: threads of this process's matrix products.

    Raises:
        PeerError: the leader cannot be reached or a rank of the drafter group failed.
    """
    use_threads(num_threads)
    drafter, runner = model.drafter(), model.runner
    hello = introduction(
        drafter,
        slot.name,
        runner.vocab_size,
        max_positions=runner.max_positions or None,
        joins=slot.joins,
    )
    try:
        _serve(drafter, slot, hello, model.pulse, model.recorder)
    finally:
        model.close()


def serve_ngrams(slot: DrafterSlot, *, vocab_size: int, pulse: Pulse) -> None:
    """Draft n-grams of prompt and output until the leader ends; blocks. Raises PeerError as above.

    Args:
        slot: how to reach the leader.
        vocab_size: tokens that the target knows.
        pulse: records what the drafter does.
    """
    drafter = LookupDrafter(LookupSettings((NgramLookup(),)))
    hello = introduction(drafter, slot.name, vocab_size, joins=slot.joins)
    _serve(drafter, slot, hello, pulse, None)


def connect_drafter(leader: LeaderAddress | TorchLinkSpec, hello: Hello) -> Link:
    """Open a drafter's link to its leader, and introduce it.

    Raises:
        PeerError: the leader cannot be reached.
    """
    if isinstance(leader, TorchLinkSpec):
        link = join_torch_link(leader, 1, name=hello.name)
        link.send(hello)  # a gRPC link sends it as it connects
        return link
    return connect_grpc(
        leader.address, token=leader.token, hello=hello, timeout_s=CONNECT_TIMEOUT_S
    )


def _serve(
    drafter: Drafter, slot: DrafterSlot, hello: Hello, pulse: Pulse, recorder: Recorder | None
) -> None:
    link = connect_drafter(slot.leader, hello)
    try:
        serve_drafts(
            link,
            drafter,
            MonotonicClock(),
            heartbeat_s=HEARTBEAT_S,
            pulse=pulse,
            recorder=recorder,
        )
    finally:
        pulse.at(ENDED)
        link.close()
