"""How long a client waits, and for what; on a clock that the test turns."""

from typing import Any

import grpc
import pytest

from runtime.client.client_patience import PATIENCE_S, ClientPatience
from runtime.clock import ManualClock
from runtime.errors import InvalidValue


class Failure(grpc.RpcError):
    """A call that failed."""

    def __init__(self, code: str, **trailing: str) -> None:
        self._code = grpc.StatusCode[code]
        self._trailing = trailing

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return "a test"

    def trailing_metadata(self) -> Any:
        return tuple((key.replace("_", "-"), value) for key, value in self._trailing.items())


def waited_s(
    patience: ClientPatience, clock: ManualClock, error: Failure, **fields: Any
) -> list[float]:
    """Ask again and again; return the waits before the error comes through."""
    waits: list[float] = []
    while True:
        try:
            waits.append(patience.wait_s(error, **fields))
        except Failure:
            return waits
        clock.advance(waits[-1])


def test_a_server_that_is_away_is_waited_for_as_long_as_the_budget_and_said_once() -> None:
    clock, notes = ManualClock(), list[str]()
    patience = ClientPatience("host:1", PATIENCE_S, notes.append, clock)
    waits = waited_s(patience, clock, Failure("UNAVAILABLE"))
    assert sum(waits) == pytest.approx(PATIENCE_S)
    assert waits[0] < 0.1
    assert max(waits) < 3.1  # a server that comes back is found soon
    (text,) = notes
    assert text.startswith("waiting for the server at host:1, at most 120 s (UNAVAILABLE: a test)")


def test_an_answer_restores_the_budget() -> None:
    clock, notes = ManualClock(), list[str]()
    patience = ClientPatience("host:1", 10.0, notes.append, clock)
    assert sum(waited_s(patience, clock, Failure("UNAVAILABLE"))) == pytest.approx(10.0)
    patience.answered()
    assert sum(waited_s(patience, clock, Failure("UNAVAILABLE"))) == pytest.approx(10.0)
    assert len(notes) == 2


def test_only_what_the_server_invites_is_asked_again() -> None:
    clock = ManualClock()
    for code in grpc.StatusCode:
        waits = waited_s(ClientPatience("host:1", 5.0, print, clock), clock, Failure(code.name))
        assert bool(waits) == (code is grpc.StatusCode.UNAVAILABLE)
    busy = Failure("RESOURCE_EXHAUSTED", retry_after="1")
    waits = waited_s(ClientPatience("host:1", 5.0, print, clock), clock, busy)
    assert sum(waits) == pytest.approx(5.0)
    assert min(waits[:-1]) >= 1.0
    odd = Failure("RESOURCE_EXHAUSTED", retry_after="soon")
    assert not waited_s(ClientPatience("host:1", 5.0, print, clock), clock, odd)


def test_a_callers_own_deadline_ends_the_wait() -> None:
    clock = ManualClock()
    patience = ClientPatience("host:1", 100.0, print, clock)
    with pytest.raises(Failure):
        patience.wait_s(Failure("UNAVAILABLE"), left_s=0.01)


def test_no_patience_asks_once() -> None:
    notes = list[str]()
    with pytest.raises(Failure):
        ClientPatience("host:1", 0.0, notes.append, ManualClock()).wait_s(Failure("UNAVAILABLE"))
    assert not notes


@pytest.mark.parametrize("budget_s", [-1.0, float("nan")])
def test_a_budget_that_is_none_is_rejected(budget_s: float) -> None:
    with pytest.raises(InvalidValue, match="`patience_s` is"):
        ClientPatience("host:1", budget_s)
