"""The codec: every message survives the trip, and bad bytes raise ProtocolError alone."""

import contextlib
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parallel.decoding.ahead_counts import AheadCounts
from parallel.decoding.types import (
    ConstraintKind,
    ConstraintSpec,
    DecodeMode,
    RngKey,
    SamplingParams,
    SparseProbs,
    TokenLogprobs,
    VerifierKind,
)
from parallel.messages import (
    Cancel,
    Committed,
    DraftItem,
    DraftOpen,
    DraftRequest,
    EngineRound,
    EngineStatus,
    Failed,
    Finished,
    Hello,
    Message,
    Period,
    Ping,
    Pong,
    Proposal,
    ProposalItem,
    RequestStats,
    Submit,
)
from protos.paceline.v1 import link_pb2 as pb
from runtime.errors import ProtocolError
from runtime.links.codec import decode, encode

words = st.integers(0, 2**64 - 1)
counts = st.integers(0, 2**32 - 1)
limits = st.none() | st.integers(1, 2**32 - 1)
token_ids = st.lists(st.integers(0, 2**31 - 1), max_size=5).map(tuple)
seconds = st.floats(0, 1e9)
text = st.text(max_size=8)
sampling = st.builds(
    SamplingParams,
    temperature=st.just(0.0) | st.floats(1e-4, 10),
    top_k=counts,
    top_p=st.floats(0, 1, exclude_min=True),
    min_p=st.floats(0, 1),
    repetition_penalty=st.floats(0.01, 10),
    presence_penalty=st.floats(-2, 2),
    frequency_penalty=st.floats(-2, 2),
    logit_bias=st.lists(st.tuples(st.integers(0, 2**31 - 1), st.floats(-100, 100)), max_size=3).map(
        tuple
    ),
    min_tokens=counts,
    end_ids=token_ids,
    constraint=st.none()
    | st.builds(
        ConstraintSpec,
        kind=st.sampled_from(ConstraintKind),
        text=text,
        choices=st.lists(text, max_size=3).map(tuple),
    ),
    seed=words,
) | st.builds(
    SamplingParams,
    temperature=st.floats(1e-4, 10),
    constraint=st.builds(
        ConstraintSpec,
        kind=st.just(ConstraintKind.REGEX),
        text=text,
        align=st.booleans(),
        close=st.booleans(),
    ),
)
token_probs = st.lists(st.tuples(st.integers(0, 2**31 - 1), st.floats(0, 1)), max_size=3).map(
    lambda pairs: SparseProbs(
        ids=tuple(pair[0] for pair in pairs), probs=tuple(pair[1] for pair in pairs)
    )
)
draft_opens = st.builds(
    DraftOpen,
    request=words,
    key=st.builds(RngKey, seed=words, request=words),
    sampling=sampling,
    num_prompt=counts,
    capacity=counts,
    send_probs=st.booleans(),
    vocab_size=limits,
)
draft_items = st.builds(
    DraftItem,
    request=words,
    epoch=words,
    keep=counts,
    tail=token_ids,
    num_draft=counts,
    tree=st.booleans(),
    min_gain=st.floats(0, 100),
)


@st.composite
def proposal_items(draw: st.DrawFn) -> ProposalItem:
    ids = draw(token_ids)
    num_token_probs = len(ids) if draw(st.booleans()) else 0
    return ProposalItem(
        request=draw(words),
        epoch=draw(words),
        base=draw(counts),
        token_ids=ids,
        draft_probs=tuple(draw(token_probs) for _ in range(num_token_probs)),
        unknown=draw(st.booleans()),
        parents=tuple(draw(st.integers(-1, node - 1)) for node in range(len(ids)))
        if draw(st.booleans())
        else (),
        gains=tuple(draw(st.floats(0, 1)) for _ in ids) if draw(st.booleans()) else (),
    )


ahead_counts = dict.fromkeys((field.name for field in fields(AheadCounts)), words)
stats = st.builds(
    RequestStats,
    rounds=words,
    drafted=words,
    accepted=words,
    rejected=words,
    missed_drafts=words,
    **ahead_counts,
    ttft_s=seconds,
    total_s=seconds,
    draft_s=seconds,
    hidden_s=seconds,
    drafter_lost=st.booleans(),
    preemptions=counts,
    cached_prompt=counts,
    queued_s=seconds,
)
statuses = st.builds(
    EngineStatus,
    running=counts,
    waiting=counts,
    drafter=text,
    tokens=words,
    target_s=seconds,
    **ahead_counts,
)
logprobs = st.builds(
    TokenLogprobs,
    logprob=st.floats(-100, 0),
    top_ids=st.just((4, 5)),
    top_logprobs=st.just((-0.5, -2.0)),
)


@st.composite
def committed(draw: st.DrawFn) -> Committed:
    ids = draw(token_ids)
    some = tuple(draw(logprobs) for _ in ids) if draw(st.booleans()) else ()
    num_accepted = draw(st.integers(0, len(ids)))
    return Committed(
        request=draw(words),
        token_ids=ids,
        logprobs=some,
        num_accepted=num_accepted,
        is_recovered=num_accepted + 1 == len(ids) and draw(st.booleans()),
    )


periods = st.builds(Period, seconds, seconds)
rounds = st.builds(
    EngineRound,
    forward=periods,
    waits=st.lists(periods, max_size=2).map(tuple),
    drafts=st.lists(periods, max_size=2).map(tuple),
    num_samples=counts,
    num_tokens=counts,
    num_drafted=counts,
    num_accepted=counts,
    num_rejected=counts,
    num_hits=counts,
    num_misses=counts,
    reads_prompts=st.booleans(),
)


messages = st.one_of(
    st.builds(
        Hello,
        role=st.sampled_from(["driver", "drafter"]),
        name=text,
        vocab_size=limits,
        capacity=counts,
        width=limits,
        max_positions=limits,
    ),
    st.builds(
        DraftRequest,
        round=words,
        opened=st.lists(draft_opens, max_size=2).map(tuple),
        items=st.lists(draft_items, max_size=3).map(tuple),
        closed=st.lists(words, max_size=3).map(tuple),
        width=limits,
    ),
    st.builds(
        Proposal,
        round=words,
        items=st.lists(proposal_items(), max_size=3).map(tuple),
        draft_s=seconds,
    ),
    st.builds(
        Submit,
        request=words,
        prompt_ids=token_ids,
        sampling=sampling,
        mode=st.sampled_from(DecodeMode),
        verifier=st.sampled_from(VerifierKind),
        max_tokens=counts,
        draft_length=st.none() | counts,
        ignore_eos=st.booleans(),
        stop=st.lists(text, max_size=3).map(tuple),
        stop_token_ids=token_ids,
        num_logprobs=st.none() | counts,
        sample_index=counts,
        priority=st.integers(-(2**31), 2**31 - 1),
        client=text,
        timeout_s=st.none() | st.floats(1e-3, 1e9),
    ),
    st.builds(Cancel, request=words),
    committed(),
    st.builds(
        Finished,
        request=words,
        reason=st.sampled_from(["stop", "length", "cancelled"]),
        stats=stats,
        complete=st.none() | st.booleans(),
    ),
    st.builds(Failed, request=st.none() | words, kind=text, message=text),
    st.builds(Ping, number=words, wants_rounds=st.booleans()),
    st.builds(
        Pong,
        number=words,
        status=statuses,
        now_s=seconds,
        rounds=st.lists(rounds, max_size=2).map(tuple),
    ),
)
SUBMIT = Submit(
    request=1,
    prompt_ids=(1, 2),
    sampling=SamplingParams(),
    mode=DecodeMode.PEARL,
    verifier=VerifierKind.MATCH,
    max_tokens=4,
    draft_length=0,
)


@given(messages)
def test_every_message_survives_the_trip(message: Message) -> None:
    assert decode(encode(message)) == message


@given(st.binary(max_size=64))
def test_random_bytes_raise_nothing_but_protocol_error(data: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        decode(data)


@given(messages, st.data())
def test_a_damaged_frame_raises_nothing_but_protocol_error(
    message: Message, data: st.DataObject
) -> None:
    frame = bytearray(encode(message))
    for _ in range(data.draw(st.integers(1, 4))):
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    damaged = bytes(frame[: data.draw(st.integers(0, len(frame)))])
    with contextlib.suppress(ProtocolError):
        decode(damaged)


def test_no_request_differs_from_request_zero() -> None:
    for request in (None, 0):
        failed = decode(encode(Failed(request=request, kind="PeerLost", message="gone")))
        assert isinstance(failed, Failed)
        assert failed.request == request


def test_draft_length_of_the_controller_differs_from_zero() -> None:
    for draft_length in (None, 0):
        submit = decode(encode(replace(SUBMIT, draft_length=draft_length)))
        assert isinstance(submit, Submit)
        assert submit.draft_length == draft_length


@pytest.mark.parametrize(
    "message",
    [
        Hello(role="spectator", name="x"),
        Cancel(request=-1),
        Cancel(request=2**64),
        Committed(request=1, token_ids=(2**31,)),
        Committed(request=1, token_ids=(-1,)),
        Committed(request=1, token_ids=(1, 2), num_accepted=3),
        Committed(request=1, token_ids=(1, 2), num_accepted=2, is_recovered=True),
        Committed(request=1, token_ids=(1, 2), num_accepted=-1),
        Pong(number=1, now_s=float("inf")),
        Pong(number=1, rounds=(EngineRound(forward=Period(float("nan"), 1.0)),)),
        replace(SUBMIT, draft_length=-2),
        replace(SUBMIT, verifier="hope"),  # type: ignore[arg-type]  # what is rejected
        Finished(request=1, reason="tired"),
        Failed(request=1, kind="X", message="\ud800"),
        Proposal(round=1, items=(), draft_s=float("nan")),
        Proposal(
            round=1,
            items=(
                ProposalItem(
                    request=1,
                    epoch=0,
                    base=1,
                    token_ids=(1, 2),
                    draft_probs=(SparseProbs(ids=(1,), probs=(1.0,)),),
                ),
            ),
            draft_s=0.0,
        ),
    ],
)
def test_a_value_out_of_range_cannot_be_sent(message: Message) -> None:
    with pytest.raises(ProtocolError):
        encode(message)


@pytest.mark.parametrize(
    "frame",
    [
        pb.Frame(),
        pb.Frame(hello=pb.Hello(name="x")),
        pb.Frame(submit=pb.Submit(request=1, mode=pb.DECODE_MODE_PEARL)),
        pb.Frame(
            submit=pb.Submit(
                sampling=pb.SamplingParams(temperature=-1.0),
                mode=pb.DECODE_MODE_PEARL,
                verifier="match",
            )
        ),
        pb.Frame(finished=pb.Finished(request=1, reason=pb.FINISH_REASON_STOP)),
        pb.Frame(
            submit=pb.Submit(sampling=pb.SamplingParams(constraint=pb.Constraint(kind="poem")))
        ),
        pb.Frame(committed=pb.Committed(token_ids=[2**31])),
        pb.Frame(committed=pb.Committed(token_ids=[1, 2], num_accepted=3)),
        pb.Frame(committed=pb.Committed(token_ids=[1, 2], is_recovered=True)),
        pb.Frame(pong=pb.Pong(rounds=[pb.EngineRound()] * 1025)),
        pb.Frame(draft_request=pb.DraftRequest(opened=[pb.DraftOpen(request=1)])),
        pb.Frame(
            proposal=pb.Proposal(
                items=[
                    pb.ProposalItem(
                        token_ids=[1], draft_probs=[pb.SparseProbs(ids=[1], probs=[1.5])]
                    )
                ]
            )
        ),
    ],
)
def test_a_frame_that_breaks_the_contract_is_rejected(frame: pb.Frame) -> None:
    with pytest.raises(ProtocolError):
        decode(frame.SerializeToString())


def test_sampling_parameters_that_were_not_sent_are_off() -> None:
    wire = pb.Submit(
        sampling=pb.SamplingParams(),
        mode=pb.DECODE_MODE_PEARL,
        verifier="match",
    )
    submit = decode(pb.Frame(submit=wire).SerializeToString())
    assert isinstance(submit, Submit)
    assert submit.sampling == SamplingParams()
