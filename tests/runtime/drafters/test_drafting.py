"""What a drafter says of itself reaches the leader, over every kind of link."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from parallel.messages import Hello, Message, Ping
from runtime.drafters.drafting import introduction, received_introduction
from runtime.drafters.lookup_drafting import LookupDrafter, LookupSettings
from runtime.errors import PeerError, PeerLost, PeerTimeout, ProtocolError
from runtime.hosts.rank_hosts import _connect
from runtime.links.memory_link import memory_link_pair
from runtime.links.torch_link import join_torch_link, offer_torch_link


def test_over_torch_distributed_the_leader_hears_it_first() -> None:
    hello = introduction(LookupDrafter(LookupSettings()), "a drafter", 48, joins=True)
    assert hello.grows_trees
    assert hello.num_successors > 0
    offer = offer_torch_link("127.0.0.1", backend="gloo", timeout_s=20)
    with ThreadPoolExecutor(1) as pool:
        joining = pool.submit(_connect, offer.spec, hello)
        link = join_torch_link(offer.spec, 0, name="the leader")
        assert received_introduction(link, 20) == hello
        theirs = joining.result(20)
    closing = ThreadPoolExecutor(1).submit(theirs.close)
    link.close()
    closing.result(20)


@pytest.mark.parametrize(
    ("said", "error", "words"),
    [
        (None, PeerTimeout, "drafter did not introduce itself within 0.05 s"),
        (Ping(number=1), ProtocolError, "drafter did not .* as a drafter, but by a Ping"),
        (Hello(role="driver", name="x"), ProtocolError, "as a drafter, but by a Hello"),
    ],
)
def test_who_says_something_else_is_let_go(
    said: Message | None, error: type[PeerError], words: str
) -> None:
    ours, theirs = memory_link_pair("drafter", "leader")
    if said is not None:
        ours.send(said)
    with pytest.raises(error, match=words):
        received_introduction(theirs, 0.05)
    with pytest.raises(PeerLost):
        ours.send(Ping(number=2))
