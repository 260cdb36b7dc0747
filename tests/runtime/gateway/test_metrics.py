import asyncio
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from parallel.messages import EngineStatus, Finished, RequestStats
from runtime.client import Client, ServiceError
from runtime.gateway.limits import GatewayLimits
from runtime.gateway.metrics import EndReason, RejectionReason, ServiceMetrics
from runtime.gateway.replica import Replica
from tests.support.rig import Rig, expected_tokens, make_submit
from tests.support.serving import Serving, slow_down, toy_tokenizer

ROOT = Path(__file__).parents[3]
DASHBOARD = ROOT / "cluster/monitoring/grafana-dashboard.json"
DOCS = ROOT / "docs/metrics.md"
PROMPT = [1, 2, 3]


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    made.attach_model(noise=0.2)
    yield made
    made.close()


class Page:
    """A scrape, by name and labels."""

    def __init__(self, metrics: ServiceMetrics) -> None:
        self.text = generate_latest(metrics.registry).decode()
        self.types = {}
        self._values = {}
        for family in text_string_to_metric_families(self.text):
            for sample in family.samples:
                self.types[sample.name] = family.type
                labels = frozenset(sample.labels.items())
                self._values[sample.name, labels] = sample.value

    def value(self, name: str, **labels: str) -> float:
        """Return the one sample of that name that has these labels."""
        (found,) = (
            value
            for (known, has), value in self._values.items()
            if known == f"paceline_{name}" and labels.items() <= has
        )
        return found

    @property
    def names(self) -> set[str]:
        return {name for name, _ in self._values}


def filled() -> ServiceMetrics:
    """Return metrics after two rounds and one request, with an engine of two lives."""
    metrics = ServiceMetrics("toy")
    replica = Replica(3)
    replica.report(EngineStatus(running=2, pages=10, pages_used=4, tokens=7, prompt_tokens=30))
    metrics.watch(lambda: [replica])
    metrics.count_tokens(1, 0.1, first=True)
    metrics.count_tokens(4, 0.2, first=False)
    stats = RequestStats(queued_s=0.25, ttft_s=1.0, total_s=3.0, accepted_at=(2, 1))
    finished = Finished(request=1, reason="stop", stats=stats)
    metrics.count_sample(finished, num_tokens=5)
    metrics.count_adapter("sst2", finished, num_tokens=5)
    metrics.count_ended(EndReason.STOP, prompt_tokens=12)
    metrics.count_response("/v1/models", 200)
    return metrics


def test_times_are_split_into_queue_prefill_and_decode() -> None:
    page = Page(filled())
    assert page.value("request_queue_time_seconds_sum") == 0.25
    assert page.value("request_prefill_time_seconds_sum") == 0.75
    assert page.value("request_decode_time_seconds_sum") == 2.0
    assert page.value("e2e_request_latency_seconds_sum") == 3.0
    assert page.value("request_time_per_output_token_seconds_sum") == 0.5  # 2 s for 4 more tokens
    assert page.value("request_prompt_tokens_sum") == 12
    assert page.value("request_generation_tokens_sum") == 5


def test_each_token_weighs_the_same_in_the_latency_between_tokens() -> None:
    """A round of 4 tokens in 0.2 s is 4 observations of 0.05 s, not one."""
    page = Page(filled())
    assert page.value("inter_token_latency_seconds_count") == 4
    assert page.value("inter_token_latency_seconds_sum") == pytest.approx(0.2)
    assert page.value("inter_token_latency_seconds_bucket", le="0.05") == 4
    assert page.value("inter_token_latency_seconds_bucket", le="0.025") == 0


def test_engines_are_told_apart_by_replica_and_model() -> None:
    page = Page(filled())
    labels = {"replica": "3", "model_name": "toy"}
    assert page.value("num_requests_running", **labels) == 2
    assert page.value("kv_cache_usage_perc", **labels) == 0.4
    assert page.value("generation_tokens_total", **labels) == 7
    assert page.value("prompt_tokens_total", **labels) == 30
    assert page.value("replica_up", **labels) == 0
    assert page.value("replica_restarts_total", **labels) == 0


def test_series_that_count_start_at_zero_so_that_a_rate_sees_the_first_one() -> None:
    page = Page(ServiceMetrics("toy"))
    for reason in EndReason:
        assert page.value("requests_total", finished_reason=reason.name.lower()) == 0
    for rejection in RejectionReason:
        assert page.value("requests_rejected_total", reason=rejection.name.lower()) == 0
    assert page.value("deadline_missed_total") == 0
    assert page.value("time_to_first_token_seconds_count") == 0


def test_the_page_keeps_the_conventions() -> None:
    page = Page(filled())
    for name in page.names:
        assert re.fullmatch(r"paceline_[a-z0-9_]+", name), name
        is_counter = page.types[name] == "counter"
        assert is_counter == name.endswith("_total") or name.endswith("_created"), name


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_finds_nothing_wrong() -> None:
    checked = subprocess.run(
        ["promtool", "check", "metrics"],
        input=Page(filled()).text,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


def test_the_dashboard_asks_for_nothing_that_the_page_does_not_have() -> None:
    board = json.loads(DASHBOARD.read_text())
    queries = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    asked = {name for query in queries for name in re.findall(r"paceline_[a-z0-9_]+", query)}
    assert len(asked) > 20
    assert asked <= Page(filled()).names


def test_the_docs_describe_every_metric_and_no_other() -> None:
    told = set(re.findall(r"`(paceline_[a-z0-9_]+)", DOCS.read_text()))
    there = {
        re.sub(r"_(bucket|sum|count)$", "", name)
        for name in Page(filled()).names
        if not name.endswith("_created")
    }
    assert told == there


def test_a_request_is_counted_once_with_its_tokens_and_its_drafts(rig: Rig) -> None:
    serving = Serving(rig)
    metrics = serving.gateway.metrics
    metrics.watch(lambda: serving.gateway.replicas)
    with Client(serving.address) as client:
        list(client.generate(PROMPT, max_tokens=24, n=3, temperature=1.0))
        list(client.generate(PROMPT, max_tokens=24))
    for _ in range(200):  # until the engine has reported
        if serving.gateway.status.tokens == 4 * 24:
            break
        serving.call(asyncio.sleep(0.05))
    page = Page(metrics)
    assert page.value("requests_total", finished_reason="length") == 2
    assert page.value("request_prompt_tokens_count") == 2
    assert page.value("request_generation_tokens_count") == 4
    assert page.value("generation_tokens_total") == 4 * 24
    assert page.value("prompt_tokens_total") == 4 * 3
    assert page.value("time_to_first_token_seconds_count") == 4
    assert page.value("spec_decode_num_accepted_tokens_total") > 0
    assert page.value("prefix_cache_queries_total") == 4 * 3
    assert page.value("drafters") == 1
    assert page.value("replica_up") == 1
    serving.close()


def test_a_rejection_is_counted_by_its_reason(rig: Rig) -> None:
    slow_down(rig, 0.02)
    serving = Serving(rig, limits=GatewayLimits(max_open=1))
    with Client(serving.address) as client:
        stream = client.generate(PROMPT, max_tokens=300)
        next(stream)
        with pytest.raises(ServiceError, match="RESOURCE_EXHAUSTED"):
            list(client.generate("w1", patience_s=0))
    page = Page(serving.gateway.metrics)
    assert page.value("requests_rejected_total", reason="busy") == 1
    serving.close()


def test_drafts_behind_a_stop_string_are_not_counted_as_accepted() -> None:
    """Each token of an answer is a draft that was accepted or one that the target chose."""
    rig = Rig(tokenizer=toy_tokenizer())
    rig.attach_model(noise=0.0)  # a perfect drafter: all that the target verifies is accepted
    submit = make_submit(max_tokens=60, draft_length=6)
    tokens = expected_tokens(submit)
    cut_inside = 0
    for length in range(2, 9):
        stopped = replace(submit, stop=(f"w{tokens[length - 1]}",))
        outcome = rig.run([stopped])[0]
        assert outcome.finished is not None
        stats, output = outcome.finished.stats, outcome.token_ids
        assert stats.accepted + stats.rounds >= len(output) >= stats.accepted
        assert sum(stats.accepted_at) == stats.accepted
        cut_inside += stats.drafted > stats.accepted
    assert cut_inside, "no answer ended within a draft"
    rig.close()
