"""/events: what the engines do, as a stream of server-sent events; docs/http.md describes them."""

import time
from dataclasses import asdict
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from parallel.decoding.types import DecodeMode
from parallel.messages import EngineRound, Period
from runtime.errors import PacelineError
from runtime.gateway.gateway import Gateway
from runtime.gateway.replica import Replica
from runtime.gateway.round_feed import ReplicaRounds, Watcher
from runtime.http.client_watch import run_while_connected
from runtime.http.event_stream import EventStream
from runtime.http.http_errors import error_response
from runtime.http.request_body import ClientGone
from runtime.requests.served_model import ServedModel

_STATUS_S = 1.0
_DIGITS = 6


class EngineEvents:
    """Streams the state and the rounds of the engines; an ASGI application for one path."""

    def __init__(self, gateway: Gateway, model: ServedModel) -> None:
        self._gateway = gateway
        self._model = model

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer until the client leaves or the server ends."""
        if scope["method"] == "HEAD":
            await Response(media_type="text/event-stream")(scope, receive, send)
            return
        try:
            watcher = self._gateway.rounds.watch()
        except PacelineError as error:
            await error_response(error)(scope, receive, send)
            return
        try:
            await run_while_connected(receive, self._stream(watcher, EventStream(send)))
        except ClientGone:
            return
        finally:
            self._gateway.rounds.unwatch(watcher)

    async def _stream(self, watcher: Watcher, stream: EventStream) -> None:
        await stream.open({})
        due_s = time.monotonic()
        while not watcher.is_closed:
            now_s = time.monotonic()
            if now_s >= due_s:
                await stream.write(self._status(), name="status")
                due_s = now_s + _STATUS_S
            for rounds in await watcher.take(due_s - now_s if due_s > now_s else _STATUS_S):
                body = _rounds_body(rounds) | {"dropped": watcher.num_dropped}
                await stream.write(body, name="rounds")
        await stream.close()

    def _status(self) -> dict[str, Any]:
        gateway, model = self._gateway, self._model
        state = "draining" if gateway.is_draining else "ready" if gateway.is_ready else "not ready"
        return {
            "state": state,
            "model": model.name,
            "version": model.version,
            "modes": [mode.value for mode in DecodeMode],
            "default_mode": model.default_mode.value,
            "uptime_s": round(gateway.uptime_s, 3),
            "open": gateway.num_open,
            "finished": gateway.metrics.num_finished,
            "replicas": [_replica_body(replica) for replica in gateway.replicas],
        }


def _replica_body(replica: Replica) -> dict[str, Any]:
    status = {
        name: round(value, _DIGITS) if isinstance(value, float) else value
        for name, value in asdict(replica.status).items()
    }
    return {
        "replica": replica.number,
        "state": replica.state,
        "restarts": max(replica.num_attached - 1, 0),
        "last_seen_s": round(replica.step_age_s, 3),
        **status,
    }


def _rounds_body(found: ReplicaRounds) -> dict[str, Any]:
    return {
        "replica": found.replica,
        "now_s": round(found.now_s, _DIGITS),
        "rounds": [_round_body(report) for report in found.rounds],
    }


def _round_body(report: EngineRound) -> dict[str, Any]:
    return {
        "forward": _pair(report.forward),
        "waits": [_pair(one) for one in report.waits],
        "drafts": [_pair(one) for one in report.drafts],
        "samples": report.num_samples,
        "tokens": report.num_tokens,
        "drafted": report.num_drafted,
        "accepted": report.num_accepted,
        "rejected": report.num_rejected,
        "hits": report.num_hits,
        "misses": report.num_misses,
        "reads_prompts": report.reads_prompts,
    }


def _pair(period: Period) -> list[float]:
    return [round(period.start_s, _DIGITS), round(period.end_s, _DIGITS)]
