"""Runs of requests on a deployment and on transformers, with their times."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import ray

from actors.baseline_actor import BaselineActor
from cluster.bench.rows import MeasuredRun
from cluster.deploy.deployment import Deployment
from cluster.deploy.driver_session import run_requests
from cluster.network.ray_errors import result_of
from cluster.network.ray_session import beside_driver
from parallel.decoding.types import DecodeMode
from parallel.messages import Submit
from runtime.baselines.baseline_run import BaselineRun
from runtime.errors import PacelineError
from runtime.hosts.rank_settings import ModelSettings
from runtime.links.link import Link

Measure = Callable[[list[Submit], int], MeasuredRun]
"""Runs requests once, with this many tokens each."""


def measure_on(deployment: Deployment, link: Link, mode: DecodeMode) -> Measure:
    """Return what measures requests on a deployment in a mode, over a link to its leader."""

    def measure(submits: list[Submit], max_tokens: int) -> MeasuredRun:
        wanted = [replace(s, mode=mode, max_tokens=max_tokens) for s in submits]
        first_s: dict[int, float] = {}
        start_s = time.perf_counter()

        def note_time(submit: Submit, _: tuple[int, ...]) -> None:
            first_s.setdefault(submit.request, time.perf_counter() - start_s)

        results = run_requests(deployment, link, wanted, on_tokens=note_time, on_end=lambda _: None)
        wall_s = time.perf_counter() - start_s
        for result in results:
            if result.error:
                raise PacelineError(f"prompt {result.submit.request} failed: {result.error}")
        return MeasuredRun(
            token_ids=tuple(tuple(result.token_ids) for result in results),
            wall_s=wall_s,
            first_s=tuple(first_s[submit.request] for submit in wanted),
            results=tuple(results),
        )

    return measure


def start_transformers(model: ModelSettings) -> Any:
    """Return an actor that runs a target's checkpoint with transformers, on the driver's node."""
    return (
        ray.remote(BaselineActor)
        .options(num_cpus=0, scheduling_strategy=beside_driver())  # the model is there
        .remote(model.directory, model.weights, model.device, model.num_threads)
    )


def measure_transformers(actor: Any, num_lookup: int | None) -> Measure:
    """Return what measures requests on transformers, with or without its prompt lookup."""

    def measure(submits: list[Submit], max_tokens: int) -> MeasuredRun:
        prompts = [submit.prompt_ids for submit in submits]
        called = actor.generate.remote(prompts, max_tokens, num_lookup)
        return measured_run(result_of(called, "transformers"))

    return measure


def measured_run(run: BaselineRun) -> MeasuredRun:
    """Return a baseline's run as the benchmarks compare it."""
    return MeasuredRun(token_ids=run.token_ids, wall_s=run.wall_s, first_s=run.first_s)
