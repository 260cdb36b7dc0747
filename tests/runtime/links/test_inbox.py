"""The queue between a link's receiving thread and its reader."""

import pytest

from parallel.messages import Ping
from runtime.errors import PeerLost
from runtime.links.inbox import Inbox


def test_messages_come_in_order_and_an_empty_queue_returns_none() -> None:
    inbox = Inbox()
    assert inbox.get(0) is None
    inbox.put(Ping(number=1))
    inbox.put(Ping(number=2))
    assert [inbox.get(0), inbox.get(0), inbox.get(0)] == [Ping(number=1), Ping(number=2), None]
    assert inbox.end is None


def test_messages_before_the_end_are_delivered_and_the_end_is_raised_every_time() -> None:
    inbox = Inbox()
    inbox.put(Ping(number=1))
    inbox.fail(PeerLost("the drafter closed the link"))
    assert inbox.end is not None  # a sender learns at once
    assert inbox.get(0) == Ping(number=1)
    for _ in range(2):
        with pytest.raises(PeerLost, match="the drafter closed the link"):
            inbox.get(0)


def test_only_the_first_end_counts() -> None:
    inbox = Inbox()
    inbox.fail(PeerLost("first"))
    inbox.fail(PeerLost("second"))
    with pytest.raises(PeerLost, match="first"):
        inbox.get(0)
    with pytest.raises(PeerLost, match="first"):
        inbox.get(0)
