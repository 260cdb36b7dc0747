"""Translates messages to the bytes of `protos/paceline/v1/link.proto` and back.

Both directions refuse what the contract does not allow, so nothing a peer sends reaches the
engine unchecked.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from google.protobuf.message import DecodeError
from google.protobuf.message import Message as Wire

from parallel.decoding.types import DecodeMode, RngKey, SamplingParams, SparseProbs, VerifierKind
from parallel.messages import (
    Cancel,
    Committed,
    DraftItem,
    DraftOpen,
    DraftRequest,
    Failed,
    Finished,
    Hello,
    Message,
    Ping,
    Pong,
    Proposal,
    ProposalItem,
    RequestStats,
    Submit,
)
from protos.paceline.v1 import link_pb2 as pb
from runtime.errors import ProtocolError

MAX_TOKEN_ID = 2**31 - 1

_T = TypeVar("_T")
_Enum = TypeVar("_Enum", bound=int)
_Wire = TypeVar("_Wire", bound=Wire)

_ROLES = {"driver": pb.ROLE_DRIVER, "drafter": pb.ROLE_DRAFTER}
_MODES = {
    DecodeMode.AUTOREGRESSIVE: pb.DECODE_MODE_AUTOREGRESSIVE,
    DecodeMode.SPECULATIVE: pb.DECODE_MODE_SPECULATIVE,
    DecodeMode.PEARL: pb.DECODE_MODE_PEARL,
}
_VERIFIERS = {
    VerifierKind.MATCH.value: pb.VERIFIER_KIND_MATCH,
    VerifierKind.REJECTION.value: pb.VERIFIER_KIND_REJECTION,
}
_REASONS = {
    "stop": pb.FINISH_REASON_STOP,
    "length": pb.FINISH_REASON_LENGTH,
    "cancelled": pb.FINISH_REASON_CANCELLED,
}
_ROLE_NAMES = {number: name for name, number in _ROLES.items()}
_MODE_NAMES = {number: name for name, number in _MODES.items()}
_VERIFIER_NAMES = {number: name for name, number in _VERIFIERS.items()}
_REASON_NAMES = {number: name for name, number in _REASONS.items()}


def encode(message: Message) -> bytes:
    """Return the frame of `message`.

    Raises:
        ProtocolError: a value is outside the range of its field.
    """
    return to_frame(message).SerializeToString()


def decode(data: bytes) -> Message:
    """Return the message of one frame's bytes.

    Raises:
        ProtocolError: the bytes are no frame, or a value is missing or out of range.
    """
    return from_frame(parse(pb.Frame, data))


def parse(kind: type[_Wire], data: bytes) -> _Wire:
    """Parse one protobuf message; raises ProtocolError when the bytes are none."""
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise ProtocolError(f"{len(data)} bytes are no {kind.__name__}: {error}") from error


def to_frame(message: Message) -> pb.Frame:
    """Return the protobuf frame of `message`; raises ProtocolError as `encode` does."""
    try:
        return _ENCODERS[type(message)](message)
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise ProtocolError(f"{type(message).__name__} cannot be sent: {error}") from error


def from_frame(frame: pb.Frame) -> Message:
    """Return the message of a protobuf frame; raises ProtocolError as `decode` does."""
    name = frame.WhichOneof("message")
    if name is None:
        raise ProtocolError("a link frame holds no message that this version knows")
    try:
        return _DECODERS[name](getattr(frame, name))
    except (ValueError, KeyError) as error:
        raise ProtocolError(f"malformed {name} frame: {error}") from error


def _put_hello(message: Hello) -> pb.Frame:
    return pb.Frame(
        hello=pb.Hello(
            role=_ROLES[message.role],
            name=message.name,
            vocab_size=message.vocab_size,
            capacity=message.capacity,
        )
    )


def _get_hello(wire: pb.Hello) -> Hello:
    return Hello(
        role=_known(_ROLE_NAMES, wire.role, "role"),
        name=wire.name,
        vocab_size=wire.vocab_size,
        capacity=wire.capacity,
    )


def _put_sampling(sampling: SamplingParams) -> pb.SamplingParams:
    return pb.SamplingParams(
        temperature=_finite(sampling.temperature, "temperature"),
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        min_p=sampling.min_p,
        repetition_penalty=_finite(sampling.repetition_penalty, "repetition_penalty"),
        seed=sampling.seed,
    )


def _get_sampling(wire: pb.SamplingParams) -> SamplingParams:
    return SamplingParams(
        temperature=_finite(wire.temperature, "temperature"),
        top_k=wire.top_k,
        top_p=wire.top_p if wire.HasField("top_p") else 1.0,
        min_p=wire.min_p,
        repetition_penalty=_finite(wire.repetition_penalty, "repetition_penalty")
        if wire.HasField("repetition_penalty")
        else 1.0,
        seed=wire.seed,
    )


def _put_draft_request(message: DraftRequest) -> pb.Frame:
    return pb.Frame(
        draft_request=pb.DraftRequest(
            round=message.round,
            opened=[
                pb.DraftOpen(
                    request=opened.request,
                    key=pb.RngKey(seed=opened.key.seed, request=opened.key.request),
                    sampling=_put_sampling(opened.sampling),
                    num_prompt=opened.num_prompt,
                    capacity=opened.capacity,
                    send_probs=opened.send_probs,
                )
                for opened in message.opened
            ],
            items=[
                pb.DraftItem(
                    request=item.request,
                    epoch=item.epoch,
                    keep=item.keep,
                    tail=_token_ids(item.tail),
                    num_draft=item.num_draft,
                )
                for item in message.items
            ],
            closed=message.closed,
        )
    )


def _get_draft_request(wire: pb.DraftRequest) -> DraftRequest:
    return DraftRequest(
        round=wire.round,
        opened=tuple(_get_draft_open(opened) for opened in wire.opened),
        items=tuple(
            DraftItem(
                request=item.request,
                epoch=item.epoch,
                keep=item.keep,
                tail=_token_ids(item.tail),
                num_draft=item.num_draft,
            )
            for item in wire.items
        ),
        closed=tuple(wire.closed),
    )


def _get_draft_open(wire: pb.DraftOpen) -> DraftOpen:
    _require(wire.HasField("key") and wire.HasField("sampling"), "no key or sampling parameters")
    return DraftOpen(
        request=wire.request,
        key=RngKey(seed=wire.key.seed, request=wire.key.request),
        sampling=_get_sampling(wire.sampling),
        num_prompt=wire.num_prompt,
        capacity=wire.capacity,
        send_probs=wire.send_probs,
    )


def _put_proposal(message: Proposal) -> pb.Frame:
    return pb.Frame(
        proposal=pb.Proposal(
            round=message.round,
            items=[
                pb.ProposalItem(
                    request=item.request,
                    epoch=item.epoch,
                    base=item.base,
                    token_ids=_token_ids(item.token_ids),
                    draft_probs=[
                        pb.SparseProbs(ids=_token_ids(law.ids), probs=_probs(law.probs, law.ids))
                        for law in _one_each(item.draft_probs, item.token_ids)
                    ],
                    unknown=item.unknown,
                )
                for item in message.items
            ],
            draft_s=_seconds(message.draft_s, "draft_s"),
        )
    )


def _get_proposal(wire: pb.Proposal) -> Proposal:
    return Proposal(
        round=wire.round,
        items=tuple(
            ProposalItem(
                request=item.request,
                epoch=item.epoch,
                base=item.base,
                token_ids=_token_ids(item.token_ids),
                draft_probs=tuple(
                    SparseProbs(ids=_token_ids(law.ids), probs=_probs(law.probs, law.ids))
                    for law in _one_each(item.draft_probs, item.token_ids)
                ),
                unknown=item.unknown,
            )
            for item in wire.items
        ),
        draft_s=_seconds(wire.draft_s, "draft_s"),
    )


def _put_submit(message: Submit) -> pb.Frame:
    _require(message.draft_length >= -1, f"draft_length is {message.draft_length}")
    return pb.Frame(
        submit=pb.Submit(
            request=message.request,
            prompt_ids=_token_ids(message.prompt_ids),
            sampling=_put_sampling(message.sampling),
            mode=_MODES[message.mode],
            verifier=_VERIFIERS[message.verifier],
            max_tokens=message.max_tokens,
            draft_length=None if message.draft_length == -1 else message.draft_length,
            ignore_eos=message.ignore_eos,
            stop=message.stop,
        )
    )


def _get_submit(wire: pb.Submit) -> Submit:
    _require(wire.HasField("sampling"), "no sampling parameters")
    return Submit(
        request=wire.request,
        prompt_ids=_token_ids(wire.prompt_ids),
        sampling=_get_sampling(wire.sampling),
        mode=_known(_MODE_NAMES, wire.mode, "mode"),
        verifier=_known(_VERIFIER_NAMES, wire.verifier, "verifier"),
        max_tokens=wire.max_tokens,
        draft_length=wire.draft_length if wire.HasField("draft_length") else -1,
        ignore_eos=wire.ignore_eos,
        stop=tuple(wire.stop),
    )


def _put_finished(message: Finished) -> pb.Frame:
    stats = message.stats
    return pb.Frame(
        finished=pb.Finished(
            request=message.request,
            reason=_REASONS[message.reason],
            stats=pb.RequestStats(
                rounds=stats.rounds,
                drafted=stats.drafted,
                accepted=stats.accepted,
                rejected=stats.rejected,
                missed_drafts=stats.missed_drafts,
                ttft_s=_seconds(stats.ttft_s, "ttft_s"),
                total_s=_seconds(stats.total_s, "total_s"),
                draft_s=_seconds(stats.draft_s, "draft_s"),
                hidden_s=_seconds(stats.hidden_s, "hidden_s"),
                drafter_lost=stats.drafter_lost,
            ),
        )
    )


def _get_finished(wire: pb.Finished) -> Finished:
    _require(wire.HasField("stats"), "no stats")
    stats = wire.stats
    return Finished(
        request=wire.request,
        reason=_known(_REASON_NAMES, wire.reason, "reason"),
        stats=RequestStats(
            rounds=stats.rounds,
            drafted=stats.drafted,
            accepted=stats.accepted,
            rejected=stats.rejected,
            missed_drafts=stats.missed_drafts,
            ttft_s=_seconds(stats.ttft_s, "ttft_s"),
            total_s=_seconds(stats.total_s, "total_s"),
            draft_s=_seconds(stats.draft_s, "draft_s"),
            hidden_s=_seconds(stats.hidden_s, "hidden_s"),
            drafter_lost=stats.drafter_lost,
        ),
    )


def _put_committed(message: Committed) -> pb.Frame:
    token_ids = _token_ids(message.token_ids)
    return pb.Frame(committed=pb.Committed(request=message.request, token_ids=token_ids))


def _get_committed(wire: pb.Committed) -> Committed:
    return Committed(request=wire.request, token_ids=_token_ids(wire.token_ids))


def _put_failed(message: Failed) -> pb.Frame:
    failed = pb.Failed(request=message.request, kind=message.kind, message=message.message)
    return pb.Frame(failed=failed)


def _get_failed(wire: pb.Failed) -> Failed:
    request = wire.request if wire.HasField("request") else None
    return Failed(request=request, kind=wire.kind, message=wire.message)


_ENCODERS: dict[type, Callable[..., pb.Frame]] = {
    Hello: _put_hello,
    DraftRequest: _put_draft_request,
    Proposal: _put_proposal,
    Submit: _put_submit,
    Cancel: lambda message: pb.Frame(cancel=pb.Cancel(request=message.request)),
    Committed: _put_committed,
    Finished: _put_finished,
    Failed: _put_failed,
    Ping: lambda message: pb.Frame(ping=pb.Ping(number=message.number)),
    Pong: lambda message: pb.Frame(pong=pb.Pong(number=message.number)),
}
_DECODERS: dict[str, Callable[..., Message]] = {
    "hello": _get_hello,
    "draft_request": _get_draft_request,
    "proposal": _get_proposal,
    "submit": _get_submit,
    "cancel": lambda wire: Cancel(request=wire.request),
    "committed": _get_committed,
    "finished": _get_finished,
    "failed": _get_failed,
    "ping": lambda wire: Ping(number=wire.number),
    "pong": lambda wire: Pong(number=wire.number),
}


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ValueError(message)


def _known(names: Mapping[_Enum, _T], number: _Enum, field: str) -> _T:
    _require(number in names, f"{field} {number} is unknown")
    return names[number]


def _token_ids(ids: Iterable[int]) -> tuple[int, ...]:
    token_ids = tuple(ids)
    if token_ids and not 0 <= min(token_ids) <= max(token_ids) <= MAX_TOKEN_ID:
        raise ValueError(f"token ids reach from {min(token_ids)} to {max(token_ids)}")
    return token_ids


def _probs(values: Iterable[float], ids: Sequence[int]) -> tuple[float, ...]:
    probs = tuple(values)
    _require(len(probs) == len(ids), f"{len(probs)} probabilities for {len(ids)} tokens")
    # Written so that a NaN, which compares false, is refused.
    _require(all(0 <= prob <= 1 for prob in probs), "a probability is outside 0 to 1")
    return probs


def _one_each(laws: Sequence[_T], token_ids: Sequence[int]) -> Sequence[_T]:
    _require(len(laws) in (0, len(token_ids)), f"{len(laws)} laws for {len(token_ids)} tokens")
    return laws


def _finite(value: float, field: str) -> float:
    _require(math.isfinite(value), f"{field} is {value}")
    return value


def _seconds(value: float, field: str) -> float:
    _require(math.isfinite(value) and value >= 0, f"{field} is {value}")
    return value
