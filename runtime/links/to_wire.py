"""Translates our messages to protobuf frames."""

from collections.abc import Callable, Iterable
from dataclasses import asdict

from parallel.decoding.types import ConstraintSpec, SamplingParams, TokenLogprobs, VerifierKind
from parallel.messages import (
    Cancel,
    Committed,
    DraftRequest,
    EngineStatus,
    Failed,
    Finished,
    Hello,
    Message,
    Ping,
    Pong,
    Proposal,
    RequestStats,
    Submit,
)
from protos.paceline.v1 import link_pb2 as pb
from runtime.errors import ProtocolError
from runtime.links.engine_rounds import put_round
from runtime.links.wire_values import (
    AHEAD_COUNTS,
    MODES,
    REASONS,
    ROLES,
    checked_parents,
    checked_probs,
    checked_seconds,
    checked_sources,
    checked_token_ids,
    finite,
    one_each,
)


def to_frame(message: Message) -> pb.Frame:
    """Return the protobuf frame of `message`; raises ProtocolError as `encode` does."""
    try:
        return _ENCODERS[type(message)](message)
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise ProtocolError(f"{type(message).__name__} cannot be sent: {error}") from error


def _put_hello(message: Hello) -> pb.Frame:
    return pb.Frame(
        hello=pb.Hello(
            role=ROLES[message.role],
            name=message.name,
            vocab_size=message.vocab_size or 0,
            capacity=message.capacity,
            num_successors=message.num_successors,
            grows_trees=message.grows_trees,
            step_s=[checked_seconds(step_s, "step_s") for step_s in message.step_s],
            width=message.width or 0,
            joins=message.joins,
            max_positions=message.max_positions or 0,
        )
    )


def _put_sampling(sampling: SamplingParams) -> pb.SamplingParams:
    return pb.SamplingParams(
        temperature=finite(sampling.temperature, "temperature"),
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        min_p=sampling.min_p,
        repetition_penalty=finite(sampling.repetition_penalty, "repetition_penalty"),
        seed=sampling.seed,
        presence_penalty=finite(sampling.presence_penalty, "presence_penalty"),
        frequency_penalty=finite(sampling.frequency_penalty, "frequency_penalty"),
        logit_bias=[
            pb.TokenBias(token_id=token, bias=finite(bias, "logit_bias"))
            for token, bias in sampling.logit_bias
        ],
        min_tokens=sampling.min_tokens,
        end_ids=checked_token_ids(sampling.end_ids),
        constraint=put_constraint(sampling.constraint),
    )


def put_constraint(spec: ConstraintSpec | None) -> pb.Constraint | None:
    """Return the message of a constraint."""
    if spec is None:
        return None
    return pb.Constraint(
        kind=spec.kind,
        text=spec.text,
        choices=spec.choices,
        align=spec.align,
        close=spec.close,
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
                    vocab_size=opened.vocab_size or 0,
                )
                for opened in message.opened
            ],
            items=[
                pb.DraftItem(
                    request=item.request,
                    epoch=item.epoch,
                    keep=item.keep,
                    tail=checked_token_ids(item.tail),
                    num_draft=item.num_draft,
                    stream=item.stream,
                    tree=item.tree,
                    least_gain=finite(item.min_gain, "min_gain"),
                    scored=[
                        pb.Scored(
                            context=checked_token_ids(context),
                            successors=checked_token_ids(successors),
                        )
                        for context, successors in item.scored
                    ],
                    num_in_flight=item.num_in_flight,
                    num_outcomes=item.num_outcomes,
                    outcome_part=item.outcome_part,
                    num_outcome_parts=item.num_outcome_parts,
                )
                for item in message.items
            ],
            closed=message.closed,
            width=message.width or 0,
        )
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
                    token_ids=checked_token_ids(item.token_ids),
                    draft_probs=[
                        pb.SparseProbs(
                            ids=checked_token_ids(sparse.ids),
                            probs=checked_probs(sparse.probs, sparse.ids),
                        )
                        for sparse in one_each(item.draft_probs, item.token_ids)
                    ],
                    unknown=item.unknown,
                    parents=checked_parents(item.parents, item.token_ids),
                    gains=checked_probs(one_each(item.gains, item.token_ids), item.gains),
                    outcomes=[
                        pb.OutcomeDraft(
                            num_accepted=part.outcome.num_accepted,
                            next_token=part.outcome.next_token,
                            first=part.first,
                            token_ids=checked_token_ids(part.token_ids),
                        )
                        for part in item.outcomes
                    ],
                )
                for item in message.items
            ],
            draft_s=checked_seconds(message.draft_s, "draft_s"),
            partial=message.partial,
            num_steps=message.num_steps,
        )
    )


def _put_submit(message: Submit) -> pb.Frame:
    return pb.Frame(
        submit=pb.Submit(
            request=message.request,
            prompt_ids=checked_token_ids(message.prompt_ids),
            sampling=_put_sampling(message.sampling),
            mode=MODES[message.mode],
            verifier=VerifierKind(message.verifier).value,
            max_tokens=message.max_tokens,
            draft_length=message.draft_length,
            ignore_eos=message.ignore_eos,
            stop=message.stop,
            stop_token_ids=checked_token_ids(message.stop_token_ids),
            num_logprobs=message.num_logprobs,
            sample_index=message.sample_index,
            priority=message.priority,
            client=message.client,
            timeout_s=checked_seconds(message.timeout_s or 0.0, "timeout_s"),
            output_ids=checked_token_ids(message.output_ids),
            adapter=message.adapter,
        )
    )


def put_stats(stats: RequestStats) -> pb.RequestStats:
    """Return the wire form of a request's report."""
    return pb.RequestStats(
        rounds=stats.rounds,
        drafted=stats.drafted,
        accepted=stats.accepted,
        rejected=stats.rejected,
        missed_drafts=stats.missed_drafts,
        **{name: getattr(stats, name) for name in AHEAD_COUNTS},
        ttft_s=checked_seconds(stats.ttft_s, "ttft_s"),
        total_s=checked_seconds(stats.total_s, "total_s"),
        draft_s=checked_seconds(stats.draft_s, "draft_s"),
        hidden_s=checked_seconds(stats.hidden_s, "hidden_s"),
        draft_width=stats.draft_width or 0,
        predicted_step_s=checked_seconds(stats.predicted_step_s, "predicted_step_s"),
        draft_step_s=checked_seconds(stats.draft_step_s, "draft_step_s"),
        drafter_lost=stats.drafter_lost,
        tested_at=stats.tested_at,
        accepted_at=stats.accepted_at,
        preemptions=stats.preemptions,
        cached_prompt=stats.cached_prompt,
        queued_s=checked_seconds(stats.queued_s, "queued_s"),
        replays=stats.replays,
    )


def put_logprobs(logprobs: Iterable[TokenLogprobs]) -> list[pb.TokenLogprobs]:
    """Return the wire form of tokens' log probabilities."""
    return [
        pb.TokenLogprobs(logprob=one.logprob, top_ids=one.top_ids, top_logprobs=one.top_logprobs)
        for one in logprobs
    ]


def put_status(status: EngineStatus) -> pb.EngineStatus:
    """Return the wire form of an engine's status; the fields have the same names."""
    return pb.EngineStatus(**asdict(status))


def _put_finished(message: Finished) -> pb.Frame:
    return pb.Frame(
        finished=pb.Finished(
            request=message.request,
            reason=REASONS[message.reason],
            stats=put_stats(message.stats),
            complete=message.complete,
        )
    )


def _put_committed(message: Committed) -> pb.Frame:
    token_ids = checked_token_ids(message.token_ids)
    logprobs = put_logprobs(one_each(message.logprobs, token_ids))
    checked_sources(token_ids, message.num_accepted, is_recovered=message.is_recovered)
    committed = pb.Committed(
        request=message.request,
        token_ids=token_ids,
        logprobs=logprobs,
        num_accepted=message.num_accepted,
        is_recovered=message.is_recovered,
    )
    return pb.Frame(committed=committed)


def _put_pong(message: Pong) -> pb.Frame:
    pong = pb.Pong(
        number=message.number,
        status=put_status(message.status),
        now_s=checked_seconds(message.now_s, "now_s"),
        rounds=[put_round(one) for one in message.rounds],
    )
    return pb.Frame(pong=pong)


def _put_ping(message: Ping) -> pb.Frame:
    return pb.Frame(ping=pb.Ping(number=message.number, wants_rounds=message.wants_rounds))


def _put_failed(message: Failed) -> pb.Frame:
    failed = pb.Failed(request=message.request, kind=message.kind, message=message.message)
    return pb.Frame(failed=failed)


_ENCODERS: dict[type, Callable[..., pb.Frame]] = {
    Hello: _put_hello,
    DraftRequest: _put_draft_request,
    Proposal: _put_proposal,
    Submit: _put_submit,
    Cancel: lambda message: pb.Frame(cancel=pb.Cancel(request=message.request)),
    Committed: _put_committed,
    Finished: _put_finished,
    Failed: _put_failed,
    Ping: _put_ping,
    Pong: _put_pong,
}
