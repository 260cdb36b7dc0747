"""Scorers of answers: a Python callable, or a ScoringService over gRPC."""

import importlib
import math
from collections.abc import Callable, Sequence

import grpc

from protos.paceline.v1 import seedlog_pb2 as pb
from protos.paceline.v1 import seedlog_pb2_grpc as rpc
from runtime.channels.channel import open_channel
from runtime.channels.credentials import Credentials
from runtime.errors import ConfigError, PeerLost, ProtocolError

Judge = Callable[[Sequence[str], Sequence[str]], list[float]]
"""Scores of answers to prompts; higher is better."""
_GRPC = "grpc://"
_SCORE_S = 120.0


def open_judge(name: str) -> Judge:
    """Return the scorer of a name: module:function of prompt and answer, or grpc://HOST:PORT.

    Raises:
        ConfigError: there is no such function, or the name has another form.
    """
    if name.startswith(_GRPC):
        return _grpc_judge(name.removeprefix(_GRPC))
    module, colon, function = name.partition(":")
    if not colon:
        raise ConfigError(f"`reward` is {name!r}: write module:function or grpc://HOST:PORT")
    try:
        reward = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"`reward` {name!r} cannot be found: {error}") from error
    return lambda prompts, answers: [
        _number(reward(prompt, answer), name)
        for prompt, answer in zip(prompts, answers, strict=True)
    ]


def _grpc_judge(address: str) -> Judge:
    stub = rpc.ScoringServiceStub(open_channel(address, Credentials()))

    def judge(prompts: Sequence[str], answers: Sequence[str]) -> list[float]:
        asked = pb.ScoreRequest(
            answers=[
                pb.ScoredAnswer(prompt=prompt, answer=answer)
                for prompt, answer in zip(prompts, answers, strict=True)
            ]
        )
        try:
            reply = stub.Score(asked, timeout=_SCORE_S, wait_for_ready=True)
        except grpc.RpcError as error:
            raise PeerLost(
                f"the scorer at {address}: {error.code().name}: {error.details()}"
            ) from error
        if len(reply.scores) != len(answers):
            raise ProtocolError(
                f"the scorer at {address} returned {len(reply.scores)} scores for "
                f"{len(answers)} answers"
            )
        return [_number(score, address) for score in reply.scores]

    return judge


def _number(score: object, name: str) -> float:
    if not isinstance(score, (int, float)) or not math.isfinite(score):
        raise ProtocolError(f"reward {name} returned {score!r}: a finite number is needed")
    return float(score)
