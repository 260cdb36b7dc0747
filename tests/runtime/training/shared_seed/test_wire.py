"""What comes from a sequencer is a header or an answer that a run can have, or is rejected."""

from dataclasses import replace

import pytest

from protos.paceline.v1 import seedlog_pb2 as pb
from runtime.errors import ProtocolError
from runtime.training.shared_seed.wire import answer_from_wire, header_from_wire, header_to_wire
from tests.support.shared_seed_runs import header


def test_a_header_goes_there_and_back() -> None:
    sent = replace(header(), eps=0.25)  # a float32
    assert header_from_wire(header_to_wire(sent)) == sent


@pytest.mark.parametrize(
    ("field", "value"),
    [("eps", 0.0), ("eps", float("nan")), ("alpha", -1.0), ("rank", 0), ("weights", "all")],
)
def test_a_header_that_no_run_can_have_is_rejected(field: str, value: object) -> None:
    odd = header_to_wire(header())
    setattr(odd, field, value)
    with pytest.raises(ProtocolError, match=f"the sequencer's header cannot be used: {field} is"):
        header_from_wire(odd)


def test_a_commit_that_is_not_finite_is_rejected() -> None:
    odd = pb.ExchangeResponse(commits=[pb.SeedLogCommit(factor=float("nan"), next_unit=1.0)])
    with pytest.raises(ProtocolError, match="answer cannot be read: factor of round 4 is nan"):
        answer_from_wire(odd, 4)
