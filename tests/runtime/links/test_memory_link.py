"""Faults, and the measuring of a link that misbehaves."""

import threading

import pytest

from parallel.messages import Ping
from runtime.errors import PeerLost, PeerTimeout, ProtocolError
from runtime.links.link_timing import answer_pings, measure_round_trips
from runtime.links.memory_link import Faults, memory_link_pair


def test_each_end_names_the_other() -> None:
    end_a, end_b = memory_link_pair("a", "b")
    assert (end_a.peer, end_b.peer) == ("b", "a")
    end_a.close()
    with pytest.raises(PeerLost, match="a closed the link"):
        end_b.recv(0)


def test_a_cut_closes_the_link_instead_of_sending() -> None:
    end_a, end_b = memory_link_pair("a", "b")
    faulty = Faults().cut(nth=2).wrap(end_a)
    faulty.send(Ping(number=1))
    with pytest.raises(PeerLost):
        faulty.send(Ping(number=2))
    assert end_b.recv(0) == Ping(number=1)
    with pytest.raises(PeerLost):
        end_b.recv(0)


def test_faults_count_from_one() -> None:
    with pytest.raises(ValueError, match="counted from 1"):
        Faults().drop(nth=0)


def test_a_lost_ping_is_a_timeout() -> None:
    end_a, end_b = memory_link_pair("a", "b")
    answering = threading.Thread(target=answer_pings, args=(end_b,))
    answering.start()
    faulty = Faults().drop(nth=3).wrap(end_a)
    with pytest.raises(PeerTimeout, match="b did not answer"):
        measure_round_trips(faulty, 5, timeout_s=0.05)
    end_a.close()
    answering.join()


def test_another_answer_than_the_pong_is_rejected() -> None:
    end_a, end_b = memory_link_pair("a", "b")
    end_b.send(Ping(number=1))
    with pytest.raises(ProtocolError, match="answered ping 0"):
        measure_round_trips(end_a, 2)


def test_percentiles_need_two_round_trips() -> None:
    end_a, _ = memory_link_pair("a", "b")
    with pytest.raises(ValueError, match="count is 1"):
        measure_round_trips(end_a, 1)
