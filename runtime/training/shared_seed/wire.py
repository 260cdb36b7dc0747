"""Converts between the messages of seedlog.proto and dataclasses."""

from collections.abc import Sequence

from parallel.training.shared_seed.packing import EntryGroup, pack, unpack
from parallel.training.shared_seed.round_messages import MachineReport, Receipt, RoundAnswer
from parallel.training.shared_seed.step import RoundCommit
from protos.paceline.v1 import seedlog_pb2 as pb
from runtime.errors import ProtocolError
from runtime.training.shared_seed.seed_log import Header

_RECEIPTS = {
    Receipt.NONE: pb.SCALAR_RECEIPT_UNSPECIFIED,
    Receipt.TAKEN: pb.SCALAR_RECEIPT_TAKEN,
    Receipt.REPEATED: pb.SCALAR_RECEIPT_REPEATED,
    Receipt.TOO_LATE: pb.SCALAR_RECEIPT_TOO_LATE,
    Receipt.TOO_EARLY: pb.SCALAR_RECEIPT_TOO_EARLY,
}
_BACK = {number: receipt for receipt, number in _RECEIPTS.items()}


def header_to_wire(header: Header) -> pb.SeedLogHeader:
    """Return the message of a header."""
    return pb.SeedLogHeader(
        seed=header.seed,
        model=header.model,
        model_digest=header.model_digest,
        size=header.size,
        eps=header.eps,
        weights=header.weights,
        rank=header.rank,
        alpha=header.alpha,
        targets=header.targets,
        direction_rank=header.direction_rank,
        pool=header.pool,
        hash_every=header.hash_every,
    )


def header_from_wire(wire: pb.SeedLogHeader) -> Header:
    """Return the header of a message.

    Raises:
        ProtocolError: no run can have such a header.
    """
    try:
        return Header(
            seed=wire.seed,
            model=wire.model,
            model_digest=wire.model_digest,
            size=wire.size,
            eps=wire.eps,
            weights=wire.weights,
            rank=wire.rank,
            alpha=wire.alpha,
            targets=list(wire.targets),
            direction_rank=wire.direction_rank,
            pool=wire.pool,
            hash_every=wire.hash_every,
        )
    except ValueError as error:
        raise ProtocolError(f"the sequencer's header cannot be used: {error}") from error


def report_to_wire(
    report: MachineReport, wait_s: float, machine: int, secret: bytes
) -> pb.ExchangeRequest:
    """Return the message of a machine's report."""
    digest = None if report.digest is None else int.from_bytes(report.digest, "little")
    return pb.ExchangeRequest(
        round=report.round,
        codes=report.codes,
        digest=digest,
        loss=report.loss,
        wait_ms=round(1000 * wait_s),
        machine=machine,
        secret=secret,
    )


def report_from_wire(wire: pb.ExchangeRequest) -> MachineReport:
    """Return the report of a message."""
    return MachineReport(
        round=wire.round,
        codes=wire.codes,
        digest=wire.digest.to_bytes(8, "little") if wire.HasField("digest") else None,
        loss=wire.loss if wire.HasField("loss") else None,
    )


def answer_to_wire(answer: RoundAnswer) -> pb.ExchangeResponse:
    """Return the message of an answer."""
    return pb.ExchangeResponse(
        receipt=_RECEIPTS[answer.receipt],
        commits=[_commit_to_wire(commit) for commit in answer.commits],
        open_round=answer.open_round,
        is_done=answer.is_done,
        must_restore=answer.must_restore,
    )


def answer_from_wire(wire: pb.ExchangeResponse, asked: int) -> RoundAnswer:
    """Return the answer of a message, to a report of round `asked`.

    Raises:
        ProtocolError: its values are inconsistent.
    """
    try:
        return RoundAnswer(
            receipt=_BACK[wire.receipt],
            commits=_commits(wire.commits, asked),
            open_round=wire.open_round,
            is_done=wire.is_done,
            must_restore=wire.must_restore,
        )
    except (ValueError, KeyError) as error:
        raise ProtocolError(f"the sequencer's answer cannot be read: {error}") from error


def _commit_to_wire(commit: RoundCommit) -> pb.SeedLogCommit:
    groups = [
        pb.SeedLogGroup(
            age=commit.round - group.round,
            num_scalars=group.num_scalars,
            machine_gaps=group.gaps,
            codes=group.codes,
        )
        for group in pack(commit.entries)
    ]
    return pb.SeedLogCommit(
        factor=commit.factor,
        decay=None if commit.decay == 1.0 else commit.decay,
        momentum=commit.momentum,
        next_unit=commit.next_unit,
        groups=groups,
    )


def _commits(wire: Sequence[pb.SeedLogCommit], first: int) -> tuple[RoundCommit, ...]:
    return tuple(
        RoundCommit(
            round=first + index,
            entries=unpack(
                EntryGroup(first + index - g.age, g.num_scalars, g.machine_gaps, g.codes)
                for g in one.groups
            ),
            factor=one.factor,
            decay=one.decay if one.HasField("decay") else 1.0,
            momentum=one.momentum,
            next_unit=one.next_unit,
        )
        for index, one in enumerate(wire)
    )
