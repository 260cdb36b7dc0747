"""Measures generation points with deployments of real actors on real or virtual devices."""

import hashlib
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from cluster.deploy.deployment import Deployment
from cluster.deploy.deployment_plan import plan_deployment
from cluster.deploy.deployment_spec import DeploymentSpec
from cluster.deploy.drafter_capacity import DrafterCapacity
from cluster.deploy.drafter_plan import NOTHING_DRAFTS, find_drafter
from cluster.deploy.driver_session import Result, run_requests
from cluster.deploy.target_plan import PlannedModel, plan_target
from cluster.experiment.experiment_config import Experiment
from cluster.experiment.predict import arrivals, virtual_text
from cluster.experiment.store import MeasuredPoint
from cluster.experiment.sweep_points import GeneratePoint
from cluster.generate.prompt_requests import cache_tokens, make_submits
from cluster.options.generate_options import DecodeOptions, PromptOptions
from cluster.options.model_options import ModelOptions
from cluster.options.place_options import PlaceOptions
from cluster.placement.placement import Node
from cluster.reports.run_report import total_stats
from parallel.decoding.types import DecodeMode
from parallel.messages import Submit
from runtime.errors import ConfigError, PacelineError
from runtime.hosts.drafter_spec import with_model
from runtime.hosts.rank_settings import ModelSettings
from runtime.links.link import Link
from runtime.timeline import PhaseSpan

_WARM_UP_TOKENS = 4
_NUM_SPANS = 4096


class GenerateBench:
    """Runs generation points; one deployment, with one or more replicas, is up at a time."""

    def __init__(
        self, experiment: Experiment, points: Sequence[GeneratePoint], nodes: Sequence[Node]
    ) -> None:
        """Plan every point on the nodes of a cluster.

        Raises:
            ConfigError: a point cannot run; the message names it. Nothing was started.
        """
        self._experiment = experiment
        self._nodes = nodes
        self._specs: dict[tuple[object, ...], DeploymentSpec] = {}
        self._submits: dict[str, list[Submit]] = {}
        self._targets: dict[int, PlannedModel] = {}
        self._num_actors = 1
        self._up: tuple[object, ...] | None = None
        self._stack = ExitStack()
        self._deployments: list[Deployment] = []
        self._links: list[Link] = []
        for point in points:
            try:
                self._plan(point)
            except ConfigError as error:
                raise ConfigError(f"point {point.key}: {error}") from error

    @property
    def num_actors(self) -> int:
        """The number of actors that the largest point needs."""
        return self._num_actors

    def measure(self, point: GeneratePoint, repeat: int) -> tuple[MeasuredPoint, list[PhaseSpan]]:
        """Measure a run of a point; return it with the spans of its first replica.

        Raises:
            PacelineError: the measurement failed; its deployment is stopped.
        """
        try:
            if self._up != point.deployment:
                self._start(point)
            submits = self._submits[point.key]
            self._deployments[0].spans()  # drops the spans of earlier runs
            start_s = time.perf_counter()
            results = self._run(submits, arrivals(self._experiment, point))
            wall_s = time.perf_counter() - start_s
            spans = self._deployments[0].spans() if self._experiment.timeline else []
        except PacelineError:
            self.close()
            raise
        failed = next((result.error for result in results if result.error), None)
        if failed:
            raise PacelineError(f"a request failed: {failed}")
        return _measured(point, repeat, results, wall_s), spans

    def close(self) -> None:
        """Stop the current deployment."""
        self._stack.close()
        self._up, self._deployments, self._links = None, [], []

    def _start(self, point: GeneratePoint) -> None:
        self.close()
        for _ in range(point.replicas):
            deployment = self._stack.enter_context(Deployment(self._specs[point.deployment]))
            deployment.start(lambda _: None)
            link = deployment.connect()
            self._stack.callback(link.close)
            self._deployments.append(deployment)
            self._links.append(link)
        warm = [
            replace(submit, max_tokens=_WARM_UP_TOKENS)
            for submit in self._submits[point.key][: point.replicas]
        ]
        self._run(warm, [0.0] * len(warm))
        self._up = point.deployment

    def _run(self, submits: Sequence[Submit], due_s: Sequence[float]) -> list[Result]:
        """Assign the requests to the replicas in turn and run all until they end."""
        num = len(self._deployments)

        def run(replica: int) -> list[Result]:
            return run_requests(
                self._deployments[replica],
                self._links[replica],
                submits[replica::num],
                on_tokens=lambda *_: None,
                on_end=lambda _: None,
                due_s=due_s[replica::num],
            )

        with ThreadPoolExecutor(num) as pool:
            parts = list(pool.map(run, range(min(num, len(submits)))))
        return sorted((r for part in parts for r in part), key=lambda r: r.submit.request)

    def _plan(self, point: GeneratePoint) -> None:
        experiment = self._experiment
        options = _model_options(experiment, point)
        if point.tp not in self._targets:
            self._targets[point.tp] = plan_target(options)
        target = self._targets[point.tp]
        submits = make_submits(_prompts(experiment), _decode(experiment, point), target)
        if point.replicas > len(submits):
            raise ConfigError(
                f"requests.num is {len(submits)}: {point.replicas} replicas need one each"
            )
        self._submits[point.key] = submits
        capacity = DrafterCapacity(nodes=self._nodes, replicas=point.replicas)
        drafter = find_drafter(options, target, capacity) if point.drafts else NOTHING_DRAFTS
        if drafter.name and bool(drafter.spec.num_ranks) != (point.drafter_tp > 0):
            where = "on its own ranks" if point.drafter_tp == 0 else "in the target's process"
            raise ConfigError(
                f"sweep.drafter_tp has {point.drafter_tp}, but drafter {drafter.name} runs "
                f"{where}: use {'at least 1' if point.drafter_tp == 0 else '0'}"
            )
        tokens = cache_tokens(submits, point.batch, target.max_positions)
        spec = plan_deployment(options, target, drafter, cache_tokens=tokens, stops=False)
        if experiment.timeline:
            spec = _recorded(spec)
        self._specs.setdefault(point.deployment, spec)
        self._num_actors = max(self._num_actors, spec.num_actors * point.replicas)


def _recorded(spec: DeploymentSpec) -> DeploymentSpec:
    def recorded(model: ModelSettings) -> ModelSettings:
        return replace(model, num_spans=_NUM_SPANS)

    return replace(spec, target=recorded(spec.target), drafter=with_model(spec.drafter, recorded))


def _model_options(experiment: Experiment, point: GeneratePoint) -> ModelOptions:
    model, requests = experiment.model, experiment.requests
    if point.nodes > 1 and experiment.ray is None:
        raise ConfigError(
            f"sweep.nodes has {point.nodes}: a local Ray is one node; name a cluster with "
            '`ray = "HOST:PORT"`, or only plan'
        )
    options = ModelOptions(
        target=model.target if model is not None else None,
        drafter=model.drafter if model is not None else None,
        tp=point.tp,
        drafter_tp=point.drafter_tp or None,
        drafters=point.drafters,
        layer_parallel=point.layer_parallel,
        group_backend=requests.group,
        link=requests.link,
        max_batch=point.batch,
        draft_wait_s=requests.draft_wait,
        prefix_cache=False,  # each run must prefill its prompts
        place=_place(experiment, point),
        ray_address=experiment.ray,
    )
    if model is None:
        assert experiment.devices is not None
        return replace(options, virtual=virtual_text(experiment.devices, point))
    return replace(options, weights=model.weights, device=model.device, threads=model.threads)


def _place(experiment: Experiment, point: GeneratePoint) -> PlaceOptions:
    """Return `requests.place`, with the target on as many nodes as the sweep's point has."""
    place = experiment.requests.place
    if experiment.ray is None or place.target != "auto":
        return place
    if point.nodes > 1:
        return replace(place, target="spread", nodes=point.nodes)
    return replace(place, target="pack")


def _prompts(experiment: Experiment) -> PromptOptions:
    model, num = experiment.model, experiment.requests.num
    if model is None:
        return PromptOptions(num_prompts=num)
    file = Path(model.prompts) if model.prompts is not None else None
    return PromptOptions(prompt=model.prompt, prompts=file, num_prompts=num, chat=model.chat)


def _decode(experiment: Experiment, point: GeneratePoint) -> DecodeOptions:
    model = experiment.model
    return DecodeOptions(
        mode=DecodeMode(point.mode),
        draft_length=point.draft_length,
        max_tokens=experiment.requests.max_tokens,
        temperature=model.temperature if model is not None else 0.0,
        seed=experiment.requests.seed,
        ignore_eos=True,
    )


def _measured(
    point: GeneratePoint, repeat: int, results: Sequence[Result], wall_s: float
) -> MeasuredPoint:
    stats = total_stats(results, wall_s, tp=point.tp, drafter_tp=point.drafter_tp)
    firsts = sorted(result.stats.ttft_s for result in results)
    totals = sorted(result.stats.total_s for result in results)
    tokens = hashlib.sha256(repr([result.token_ids for result in results]).encode())
    figures = {
        "acceptance": stats.acceptance_rate,
        "alpha": stats.alpha,
        "tokens_per_round": stats.mean_accepted_length,
        "overlap": stats.overlap,
        "rounds": float(stats.rounds),
        "accepted": float(stats.accepted),
        "rejected": float(sum(result.stats.rejected for result in results)),
        "missed_drafts": float(stats.missed_drafts),
        "hit_rate": stats.hit_rate,
        "recovered_hit_rate": stats.recovered_hit_rate,
        "guesses_per_round": stats.guesses_per_round,
        "drafted_per_token": stats.drafted_per_token,
        "draft_step_s": stats.draft_step_s,
        "ttft_s": statistics.fmean(firsts),
        "ttft_p90_s": firsts[int(0.9 * (len(firsts) - 1))],
        "total_p50_s": totals[len(totals) // 2],
        "total_p90_s": totals[int(0.9 * (len(totals) - 1))],
    }
    return MeasuredPoint(
        key=point.key,
        repeat=repeat,
        rate=round(stats.tokens_per_s, 4),
        wall_s=round(wall_s, 4),
        figures={name: round(value, 5) for name, value in figures.items()},
        digest=tokens.hexdigest()[:16],
    )
