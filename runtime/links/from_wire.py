"""Translates protobuf frames to our messages."""

from collections.abc import Callable
from dataclasses import fields

from parallel.decoding.types import (
    ConstraintKind,
    ConstraintSpec,
    RngKey,
    SamplingParams,
    SparseProbs,
    TokenLogprobs,
    VerifierKind,
)
from parallel.decoding.verdict_outcomes import OutcomeDraft, VerdictOutcome
from parallel.messages import (
    Cancel,
    Committed,
    DraftItem,
    DraftOpen,
    DraftRequest,
    EngineStatus,
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
from runtime.links.engine_rounds import get_rounds
from runtime.links.wire_values import (
    AHEAD_COUNTS,
    MODE_NAMES,
    REASON_NAMES,
    ROLE_NAMES,
    checked_context,
    checked_parents,
    checked_probs,
    checked_seconds,
    checked_sources,
    checked_token_ids,
    finite,
    known,
    one_each,
    require,
    require_bounded,
)


def from_frame(frame: pb.Frame) -> Message:
    """Return the message of a protobuf frame; raises ProtocolError as `decode` does."""
    name = frame.WhichOneof("message")
    if name is None:
        raise ProtocolError("a link frame holds no message that this version knows")
    try:
        return _DECODERS[name](getattr(frame, name))
    except (ValueError, KeyError) as error:
        raise ProtocolError(f"malformed {name} frame: {error}") from error


def _get_hello(wire: pb.Hello) -> Hello:
    return Hello(
        role=known(ROLE_NAMES, wire.role, "role"),
        name=wire.name,
        vocab_size=wire.vocab_size or None,
        capacity=wire.capacity,
        num_successors=wire.num_successors,
        grows_trees=wire.grows_trees,
        step_s=tuple(checked_seconds(step_s, "step_s") for step_s in wire.step_s),
        width=wire.width or None,
        joins=wire.joins,
        max_positions=wire.max_positions or None,
    )


def _get_sampling(wire: pb.SamplingParams) -> SamplingParams:
    return SamplingParams(
        temperature=finite(wire.temperature, "temperature"),
        top_k=wire.top_k,
        top_p=wire.top_p if wire.HasField("top_p") else 1.0,
        min_p=wire.min_p,
        repetition_penalty=finite(wire.repetition_penalty, "repetition_penalty")
        if wire.HasField("repetition_penalty")
        else 1.0,
        seed=wire.seed,
        presence_penalty=finite(wire.presence_penalty, "presence_penalty"),
        frequency_penalty=finite(wire.frequency_penalty, "frequency_penalty"),
        logit_bias=tuple(
            zip(
                checked_token_ids(one.token_id for one in wire.logit_bias),
                [finite(one.bias, "logit_bias") for one in wire.logit_bias],
                strict=True,
            )
        ),
        min_tokens=wire.min_tokens,
        end_ids=checked_token_ids(wire.end_ids),
        constraint=get_constraint(wire.constraint) if wire.HasField("constraint") else None,
    )


def get_constraint(wire: pb.Constraint) -> ConstraintSpec:
    """Read a constraint.

    Raises:
        ValueError: its kind is unknown.
    """
    return ConstraintSpec(
        kind=ConstraintKind(wire.kind),
        text=wire.text,
        choices=tuple(wire.choices),
        align=wire.align,
        close=wire.close,
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
                tail=checked_token_ids(item.tail),
                num_draft=item.num_draft,
                stream=item.stream,
                tree=item.tree,
                min_gain=finite(item.least_gain, "min_gain"),
                scored=tuple(
                    (checked_context(scored.context), checked_token_ids(scored.successors))
                    for scored in item.scored
                ),
                num_in_flight=item.num_in_flight,
                num_outcomes=item.num_outcomes,
                outcome_part=item.outcome_part,
                num_outcome_parts=item.num_outcome_parts or 1,
            )
            for item in wire.items
        ),
        closed=tuple(wire.closed),
        width=wire.width or None,
    )


def _get_draft_open(wire: pb.DraftOpen) -> DraftOpen:
    require(wire.HasField("key") and wire.HasField("sampling"), "no key or sampling parameters")
    return DraftOpen(
        request=wire.request,
        key=RngKey(seed=wire.key.seed, request=wire.key.request),
        sampling=_get_sampling(wire.sampling),
        num_prompt=wire.num_prompt,
        capacity=wire.capacity,
        send_probs=wire.send_probs,
        vocab_size=wire.vocab_size or None,
    )


def _get_proposal(wire: pb.Proposal) -> Proposal:
    require_bounded(wire)
    return Proposal(
        round=wire.round,
        items=tuple(
            ProposalItem(
                request=item.request,
                epoch=item.epoch,
                base=item.base,
                token_ids=checked_token_ids(item.token_ids),
                draft_probs=tuple(
                    SparseProbs(
                        ids=checked_token_ids(sparse.ids),
                        probs=checked_probs(sparse.probs, sparse.ids),
                    )
                    for sparse in one_each(item.draft_probs, item.token_ids)
                ),
                unknown=item.unknown,
                parents=checked_parents(item.parents, item.token_ids),
                gains=checked_probs(one_each(item.gains, item.token_ids), item.gains),
                outcomes=tuple(
                    OutcomeDraft(
                        outcome=VerdictOutcome(
                            part.num_accepted, *checked_token_ids([part.next_token])
                        ),
                        first=part.first,
                        token_ids=checked_token_ids(part.token_ids),
                    )
                    for part in item.outcomes
                ),
            )
            for item in wire.items
        ),
        draft_s=checked_seconds(wire.draft_s, "draft_s"),
        partial=wire.partial,
        num_steps=wire.num_steps,
    )


def _get_submit(wire: pb.Submit) -> Submit:
    require(wire.HasField("sampling"), "no sampling parameters")
    return Submit(
        request=wire.request,
        prompt_ids=checked_token_ids(wire.prompt_ids),
        sampling=_get_sampling(wire.sampling),
        mode=known(MODE_NAMES, wire.mode, "mode"),
        verifier=VerifierKind(wire.verifier or VerifierKind.MATCH),
        max_tokens=wire.max_tokens,
        draft_length=wire.draft_length if wire.HasField("draft_length") else None,
        ignore_eos=wire.ignore_eos,
        stop=tuple(wire.stop),
        stop_token_ids=checked_token_ids(wire.stop_token_ids),
        num_logprobs=wire.num_logprobs if wire.HasField("num_logprobs") else None,
        sample_index=wire.sample_index,
        priority=wire.priority,
        client=wire.client,
        timeout_s=checked_seconds(wire.timeout_s, "timeout_s") or None,
        output_ids=checked_token_ids(wire.output_ids),
        adapter=wire.adapter,
    )


def _get_finished(wire: pb.Finished) -> Finished:
    require(wire.HasField("stats"), "no stats")
    return Finished(
        request=wire.request,
        reason=known(REASON_NAMES, wire.reason, "reason"),
        stats=get_stats(wire.stats),
        complete=wire.complete if wire.HasField("complete") else None,
    )


def get_stats(wire: pb.RequestStats) -> RequestStats:
    """Read a request's report.

    Raises:
        ValueError: a time is negative or not finite.
    """
    return RequestStats(
        rounds=wire.rounds,
        drafted=wire.drafted,
        accepted=wire.accepted,
        rejected=wire.rejected,
        missed_drafts=wire.missed_drafts,
        **{name: getattr(wire, name) for name in AHEAD_COUNTS},
        ttft_s=checked_seconds(wire.ttft_s, "ttft_s"),
        total_s=checked_seconds(wire.total_s, "total_s"),
        draft_s=checked_seconds(wire.draft_s, "draft_s"),
        hidden_s=checked_seconds(wire.hidden_s, "hidden_s"),
        draft_width=wire.draft_width or None,
        predicted_step_s=checked_seconds(wire.predicted_step_s, "predicted_step_s"),
        draft_step_s=checked_seconds(wire.draft_step_s, "draft_step_s"),
        drafter_lost=wire.drafter_lost,
        tested_at=tuple(wire.tested_at),
        accepted_at=tuple(wire.accepted_at),
        preemptions=wire.preemptions,
        cached_prompt=wire.cached_prompt,
        queued_s=checked_seconds(wire.queued_s, "queued_s"),
        replays=wire.replays,
    )


def _get_committed(wire: pb.Committed) -> Committed:
    token_ids = checked_token_ids(wire.token_ids)
    logprobs = tuple(get_logprobs(one) for one in one_each(wire.logprobs, token_ids))
    checked_sources(token_ids, wire.num_accepted, is_recovered=wire.is_recovered)
    return Committed(
        request=wire.request,
        token_ids=token_ids,
        logprobs=logprobs,
        num_accepted=wire.num_accepted,
        is_recovered=wire.is_recovered,
    )


def get_logprobs(wire: pb.TokenLogprobs) -> TokenLogprobs:
    """Read the log probabilities at one position.

    Raises:
        ValueError: a token id is out of range, or the columns have different lengths.
    """
    return TokenLogprobs(
        logprob=wire.logprob,
        top_ids=checked_token_ids(wire.top_ids),
        top_logprobs=tuple(one_each(wire.top_logprobs, wire.top_ids)),
    )


def get_status(wire: pb.EngineStatus) -> EngineStatus:
    """Read an engine's status; the fields have the same names.

    Raises:
        ValueError: a time is negative or not finite.
    """
    values = {field.name: getattr(wire, field.name) for field in fields(EngineStatus)}
    for name, value in values.items():
        if name.endswith("_s"):
            checked_seconds(value, name)
    return EngineStatus(**values)


def _get_pong(wire: pb.Pong) -> Pong:
    return Pong(
        number=wire.number,
        status=get_status(wire.status),
        now_s=checked_seconds(wire.now_s, "now_s"),
        rounds=get_rounds(wire.rounds),
    )


def _get_failed(wire: pb.Failed) -> Failed:
    request = wire.request if wire.HasField("request") else None
    return Failed(request=request, kind=wire.kind, message=wire.message)


_DECODERS: dict[str, Callable[..., Message]] = {
    "hello": _get_hello,
    "draft_request": _get_draft_request,
    "proposal": _get_proposal,
    "submit": _get_submit,
    "cancel": lambda wire: Cancel(request=wire.request),
    "committed": _get_committed,
    "finished": _get_finished,
    "failed": _get_failed,
    "ping": lambda wire: Ping(number=wire.number, wants_rounds=wire.wants_rounds),
    "pong": _get_pong,
}
