"""The metrics for Prometheus: durations of requests, and the counts of each engine.

Names follow vLLM's where they mean the same, with `paceline_` in place of `vllm:`: a colon is for
recording rules, and Ray's exporter rejects it. `docs/metrics.md` describes each name.
"""

import platform
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

from prometheus_client import CollectorRegistry, Counter, Histogram, Info
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from parallel.messages import Finished
from runtime.gateway.replica import Replica
from runtime.version import package_version

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_LENGTHS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000)
_GAUGES = {
    "running": ("num_requests_running", "Samples that the engine decodes"),
    "waiting": ("num_requests_waiting", "Samples that wait in the engine's queue"),
    "pages_used": ("kv_cache_pages_used", "Pages of the KV cache that requests hold"),
    "pages": ("kv_cache_pages", "Pages of the KV cache"),
    "drafters": ("drafters", "Drafters attached to the engine"),
}
_COUNTERS = {
    "prompt_tokens": ("prompt_tokens", "Prompt tokens of the requests that the engine admitted"),
    "tokens": ("generation_tokens", "Tokens generated"),
    "prefix_query_tokens": ("prefix_cache_queries", "Tokens looked up in the prefix cache"),
    "prefix_hit_tokens": ("prefix_cache_hits", "Tokens found in the prefix cache"),
    "preemptions": ("num_preemptions", "Times a request yielded its KV cache to others"),
    "rounds": ("rounds", "Forwards of the target"),
    "target_s": ("target_seconds", "Seconds in the target's forwards"),
    "drafter_losses": ("drafter_losses", "Times the engine lost a drafter"),
    "drafter_faults": ("drafter_faults", "Failures and unusable answers of drafters"),
    "drafted": ("spec_decode_num_draft_tokens", "Draft tokens that the target verified"),
    "accepted": ("spec_decode_num_accepted_tokens", "Draft tokens that were accepted"),
    "rejected": ("spec_decode_num_rejections", "Rounds of a sample that rejected a draft token"),
    "missed_drafts": ("spec_decode_num_missed_drafts", "Drafts that did not arrive in time"),
    "hits": ("spec_decode_num_hits", "Rounds whose verdict found a draft made for it meanwhile"),
    "recovered_hits": (
        "spec_decode_num_recovered_hits",
        "Those among them that rejected a draft token",
    ),
    "misses_unforeseen": (
        "spec_decode_num_unforeseen",
        "Rounds whose verdict found drafts for others only",
    ),
    "misses_late": ("spec_decode_num_late", "Rounds whose verdict found no draft that had arrived"),
    "misses_unasked": ("spec_decode_num_unasked", "Rounds that asked for no draft ahead"),
    "guesses": ("spec_decode_num_guesses", "Outcomes of verdicts for which drafts were started"),
    "drafted_ahead": ("spec_decode_num_ahead_tokens", "Tokens drafted for these outcomes"),
    "draft_s": ("spec_decode_draft_seconds", "Seconds spent drafting"),
    "hidden_s": ("spec_decode_hidden_seconds", "Seconds of drafting that the target overlapped"),
}


_ADAPTER_COUNTERS = {
    "tokens": ("generation_tokens", "Tokens generated with an adapter"),
    "drafted": ("spec_decode_num_draft_tokens", "Draft tokens verified with it"),
    "accepted": ("spec_decode_num_accepted_tokens", "Draft tokens accepted with it"),
}


class EndReason(IntEnum):
    """How a request ended; with several samples, the most severe of their ends."""

    STOP = 0
    LENGTH = 1
    CANCELLED = 2
    DEADLINE = 3
    ERROR = 4


class RejectionReason(IntEnum):
    """Why a request was rejected."""

    INVALID = 0
    """A value of it is invalid."""
    BUSY = 1
    """Too many requests are open."""
    UNAVAILABLE = 2
    """The server drains, or has no engine."""
    DENIED = 3
    """The caller's token is not accepted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterCounts:
    """What the samples of one adapter have cost, all versions together."""

    finished: int = 0
    """Samples that ended with an answer."""
    tokens: int = 0
    drafted: int = 0
    """Draft tokens that the target scored."""
    accepted: int = 0


class ServiceMetrics:
    """Counts requests as they end; `watch` adds the counts of the engines."""

    def __init__(self, model_name: str = "") -> None:
        self.registry = CollectorRegistry()
        self.model_name = model_name
        self.num_finished = 0
        """Requests that ended with an answer."""
        self.num_rejected = 0
        build = Info("paceline_build", "Version of this server", registry=self.registry)
        build.info({"version": package_version(), "python_version": platform.python_version()})
        self._requests = self._counter("requests", "Requests that ended", "finished_reason")
        for reason in EndReason:  # a rate needs a 0 to start from
            self._requests.labels(model_name, reason.name.lower())
        self._rejected = self._counter("requests_rejected", "Requests rejected", "reason")
        for rejection in RejectionReason:
            self._rejected.labels(model_name, rejection.name.lower())
        self._responses = self._counter("http_responses", "Responses over HTTP", "path", "status")
        self._deadline_missed = self._counter(
            "deadline_missed", "Requests whose deadline passed before they ended"
        ).labels(model_name)
        self._positions = self._counter(
            "spec_decode_num_accepted_tokens_per_pos",
            "Draft tokens that were accepted, by their place in the draft",
            "position",
        )
        self.adapters: dict[str, AdapterCounts] = defaultdict(AdapterCounts)
        """What the requests of each adapter have cost, by its name."""
        self._of_adapters = {
            field: self._counter(f"adapter_{name}", text, "adapter")
            for field, (name, text) in _ADAPTER_COUNTERS.items()
        }
        self._ttft = self._histogram(
            "time_to_first_token_seconds", "From submission to the first token", _SECONDS
        )
        self._gap = self._histogram(
            "inter_token_latency_seconds",
            "Between two tokens of a sample; tokens of one round share its time evenly",
            _TOKEN_SECONDS,
        )
        self._per_token = self._histogram(
            "request_time_per_output_token_seconds",
            "Mean time per token after the first, of a sample",
            _TOKEN_SECONDS,
        )
        self._total = self._histogram(
            "e2e_request_latency_seconds", "From submission to the last token", _SECONDS
        )
        self._queue = self._histogram(
            "request_queue_time_seconds", "From submission until a sample is admitted", _SECONDS
        )
        self._prefill = self._histogram(
            "request_prefill_time_seconds", "From admission to the first token", _SECONDS
        )
        self._decode = self._histogram(
            "request_decode_time_seconds", "From the first token to the last", _SECONDS
        )
        self._prompt_length = self._histogram(
            "request_prompt_tokens", "Tokens of a request's prompt", _LENGTHS
        )
        self._output_length = self._histogram(
            "request_generation_tokens", "Tokens generated for a sample", _LENGTHS
        )

    def watch(self, replicas: Callable[[], Sequence[Replica]]) -> None:
        """Add the engines' counts to each scrape."""
        self.registry.register(_EngineCollector(replicas, self.model_name))

    def count_tokens(self, num_tokens: int, seconds: float, *, first: bool) -> None:
        """Count the tokens of a round that arrived `seconds` after the ones before."""
        if first:
            self._ttft.observe(seconds)
            return
        for _ in range(num_tokens):
            self._gap.observe(seconds / num_tokens)

    def count_rejected(self, reason: RejectionReason) -> None:
        """Count a rejected request."""
        self.num_rejected += 1
        self._rejected.labels(self.model_name, reason.name.lower()).inc()

    def count_response(self, path: str, status: int) -> None:
        """Count a response over HTTP."""
        self._responses.labels(self.model_name, path, status).inc()

    def count_sample(self, finished: Finished, num_tokens: int) -> None:
        """Record the times of a sample that ended with `num_tokens` tokens."""
        stats = finished.stats
        self._total.observe(stats.total_s)
        self._queue.observe(stats.queued_s)
        self._output_length.observe(num_tokens)
        if num_tokens:
            decode_s = max(0.0, stats.total_s - stats.ttft_s)
            self._prefill.observe(max(0.0, stats.ttft_s - stats.queued_s))
            self._decode.observe(decode_s)
            if num_tokens > 1:
                self._per_token.observe(decode_s / (num_tokens - 1))
        for position, accepted in enumerate(stats.accepted_at):
            self._positions.labels(self.model_name, position).inc(accepted)

    def count_adapter(self, name: str, finished: Finished, num_tokens: int) -> None:
        """Count a sample of an adapter that ended with `num_tokens` tokens."""
        before, stats = self.adapters[name], finished.stats
        counts = {"tokens": num_tokens, "drafted": stats.drafted, "accepted": stats.accepted}
        for field, count in counts.items():
            self._of_adapters[field].labels(self.model_name, name).inc(count)
        self.adapters[name] = AdapterCounts(
            finished=before.finished + 1,
            tokens=before.tokens + num_tokens,
            drafted=before.drafted + stats.drafted,
            accepted=before.accepted + stats.accepted,
        )

    def count_ended(self, reason: EndReason, prompt_tokens: int) -> None:
        """Count a request that ended, with any number of samples."""
        self.num_finished += reason <= EndReason.CANCELLED
        self._requests.labels(self.model_name, reason.name.lower()).inc()
        self._prompt_length.observe(prompt_tokens)
        if reason is EndReason.DEADLINE:
            self._deadline_missed.inc()

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"paceline_{name}", text, ["model_name", *labels], registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: Sequence[float]) -> Histogram:
        family = Histogram(
            f"paceline_{name}", text, ["model_name"], buckets=buckets, registry=self.registry
        )
        return family.labels(self.model_name)


class _EngineCollector(Collector):
    """Reads the latest report of each engine, which includes its lost predecessors."""

    def __init__(self, replicas: Callable[[], Sequence[Replica]], model_name: str) -> None:
        self._replicas = replicas
        self._model_name = model_name

    def collect(self) -> Iterator[Metric]:
        """Yield one family for each count, one sample for each replica."""
        for field, (name, text) in _GAUGES.items():
            yield self._gauge(name, text, _field(field))
        for field, (name, text) in _COUNTERS.items():
            yield self._counter(name, text, _field(field))
        yield self._gauge("kv_cache_usage_perc", "Share of the KV cache in use, 0 to 1", _usage)
        yield self._gauge(
            "spec_decode_overlap_ratio", "Share of drafting that the target overlapped", _overlap
        )
        yield self._gauge("replica_up", "1 while the engine can serve", lambda r: float(r.is_up))
        yield self._gauge(
            "replica_last_seen_seconds",
            "Seconds since the engine last reported",
            lambda r: r.step_age_s,
        )
        yield self._counter(
            "replica_restarts",
            "Times the engine was restarted",
            lambda r: max(r.num_attached - 1, 0),
        )

    def _gauge(self, name: str, text: str, value: Callable[[Replica], float]) -> Metric:
        family = GaugeMetricFamily(f"paceline_{name}", text, labels=["model_name", "replica"])
        return self._filled(family, value)

    def _counter(self, name: str, text: str, value: Callable[[Replica], float]) -> Metric:
        family = CounterMetricFamily(f"paceline_{name}", text, labels=["model_name", "replica"])
        return self._filled(family, value)

    def _filled(
        self,
        family: GaugeMetricFamily | CounterMetricFamily,
        value: Callable[[Replica], float],
    ) -> Metric:
        for replica in self._replicas():
            family.add_metric([self._model_name, str(replica.number)], value(replica))
        return family


def _field(name: str) -> Callable[[Replica], float]:
    return lambda replica: float(getattr(replica.status, name))


def _usage(replica: Replica) -> float:
    status = replica.status
    return status.pages_used / status.pages if status.pages else 0.0


def _overlap(replica: Replica) -> float:
    status = replica.status
    return status.hidden_s / status.draft_s if status.draft_s else 0.0
