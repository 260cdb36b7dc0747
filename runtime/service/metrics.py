"""What Prometheus may scrape: counters and histograms of the service and of its engine.

Names carry no colon, so that Ray's exporter takes them too.
"""

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from parallel.messages import EngineStatus, Finished

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_GAUGES = {
    "running": ("requests_running", "Requests being decoded"),
    "waiting": ("requests_waiting", "Requests queued in the engine"),
    "pages_used": ("kv_pages_used", "Pages of the target's cache that requests hold"),
    "drafters": ("drafters", "Drafters attached"),
    "pages": ("kv_pages_total", "Pages of the target's cache"),
}
_COUNTERS = {
    "drafter_losses": ("drafter_losses", "Times an attached drafter vanished"),
    "rounds": ("spec_rounds", "Rounds of the engine"),
    "tokens": ("generation_tokens", "Output tokens"),
    "drafted": ("spec_draft_tokens", "Draft tokens that the target scored"),
    "accepted": ("spec_accepted_tokens", "Draft tokens that were kept"),
    "rejected": ("spec_rejections", "Rounds of a request that ended in a recovered token"),
    "missed_drafts": ("spec_fallback_rounds", "Drafts that did not come in time"),
    "draft_s": ("spec_draft_seconds", "Seconds spent drafting"),
    "hidden_s": ("spec_hidden_seconds", "Seconds of drafting while the target was at work"),
    "target_s": ("spec_verify_seconds", "Seconds in the target's forwards"),
    "preemptions": ("preemptions", "Times a request's cache was given to others"),
    "prefix_hit_tokens": ("prefix_cache_hit_tokens", "Tokens found in the cache"),
    "expired": ("deadline_missed", "Requests whose deadline passed"),
}


class ServiceMetrics:
    """The service's own counts; `watch` adds the engine's."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "paceline_requests", "Requests that ended", ["status"], registry=self.registry
        )
        self._refused = Counter(
            "paceline_requests_refused", "Requests turned away", registry=self.registry
        )
        self._ttft = self._seconds("time_to_first_token_seconds", "From submission to a token")
        self._gap = self._seconds("inter_token_latency_seconds", "Between tokens, a mean a round")
        self._total = self._seconds("e2e_request_latency_seconds", "From submission to the end")
        self._positions = Counter(
            "paceline_spec_accepted_tokens_per_position",
            "Draft tokens that were kept, by their place in the draft",
            ["position"],
            registry=self.registry,
        )
        self.num_finished = 0
        self.num_refused = 0

    def watch(self, status: Callable[[], EngineStatus], step_age_s: Callable[[], float]) -> None:
        """Let a scrape read the engine's state."""
        self.registry.register(_EngineCollector(status, step_age_s))

    def count_tokens(self, num_tokens: int, seconds: float, *, first: bool) -> None:
        """Count tokens that came `seconds` after the ones before."""
        if first:
            self._ttft.observe(seconds)
        elif num_tokens:
            self._gap.observe(seconds / num_tokens)

    def count_refused(self) -> None:
        """Count a request that was turned away."""
        self.num_refused += 1
        self._refused.inc()

    def count_failed(self, kind: str) -> None:
        """Count a request's bad end."""
        self._requests.labels(status=kind).inc()

    def count_finished(self, finished: Finished) -> None:
        """Count a request's end."""
        self.num_finished += 1
        self._requests.labels(status=finished.reason).inc()
        self._total.observe(finished.stats.total_s)
        for position, accepted in enumerate(finished.stats.accepted_at):
            self._positions.labels(position=position).inc(accepted)

    def _seconds(self, name: str, text: str) -> Histogram:
        return Histogram(f"paceline_{name}", text, buckets=_SECONDS, registry=self.registry)


class _EngineCollector(Collector):
    def __init__(self, status: Callable[[], EngineStatus], step_age_s: Callable[[], float]) -> None:
        self._status = status
        self._step_age_s = step_age_s

    def collect(self) -> Iterator[Metric]:
        """Yield what the engine said of itself last."""
        status = self._status()
        for field, (name, text) in _GAUGES.items():
            yield GaugeMetricFamily(f"paceline_{name}", text, value=getattr(status, field))
        for field, (name, text) in _COUNTERS.items():
            yield CounterMetricFamily(f"paceline_{name}", text, value=getattr(status, field))
        overlap = status.hidden_s / status.draft_s if status.draft_s else 0.0
        yield GaugeMetricFamily(
            "paceline_spec_overlap_ratio", "Share of drafting that was hidden", value=overlap
        )
        yield GaugeMetricFamily(
            "paceline_step_age_seconds",
            "Since the engine last gave a sign of life",
            value=self._step_age_s(),
        )
