"""Reports of rounds survive the wire, and what no leader sends is rejected."""

import pytest

from parallel.messages import EngineRound, Period
from protos.paceline.v1 import link_pb2 as pb
from runtime.links.engine_rounds import MAX_ROUNDS, get_rounds, put_round

REPORT = EngineRound(
    forward=Period(2.0, 3.0),
    waits=(Period(1.5, 2.0),),
    drafts=(Period(1.0, 1.5), Period(1.0, 1.75)),
    num_samples=2,
    num_tokens=5,
    num_drafted=8,
    num_accepted=3,
    num_rejected=1,
    num_hits=1,
    num_misses=1,
    reads_prompts=True,
)


def test_reports_come_back_as_they_were() -> None:
    assert get_rounds([put_round(REPORT)] * MAX_ROUNDS) == (REPORT,) * MAX_ROUNDS


@pytest.mark.parametrize(
    ("wires", "words"),
    [
        ([pb.EngineRound()] * (MAX_ROUNDS + 1), "1025 rounds, 1024 at most"),
        ([pb.EngineRound(forward=pb.Period(start_s=-1))], "start_s is -1"),
        ([pb.EngineRound(drafts=[pb.Period(end_s=float("inf"))])], "end_s is inf"),
        ([pb.EngineRound(waits=[pb.Period()] * 4097)], "4097 periods, 4096 at most"),
    ],
)
def test_what_no_leader_sends_is_rejected(wires: list[pb.EngineRound], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        get_rounds(wires)
