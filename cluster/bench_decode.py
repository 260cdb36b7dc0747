"""`paceline bench decode`: decoding modes side by side, interleaved in one run."""

import json
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace

import ray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from actors.baseline import BaselineActor
from cluster.bench_rows import Case, Measured, bench_row, bench_table
from cluster.deployment import Deployment, DeploymentSpec
from cluster.options import BenchDecodeOptions
from cluster.planning import (
    DrafterChoice,
    PlannedModel,
    plan_deployment,
    plan_drafter,
    plan_target,
)
from cluster.ray_session import RaySession
from cluster.report import output_console, total_stats
from cluster.requests import cache_tokens, make_submits
from cluster.session import run_requests
from parallel.decoding.cost import throughput
from parallel.decoding.types import DecodeMode
from parallel.messages import Submit
from runtime.errors import ConfigError, PacelineError

_NOTES = Console(stderr=True)
_WARM_UP_TOKENS = 8


def run(options: BenchDecodeOptions) -> int:
    """Measure every configuration and print the comparison; return the exit code.

    Raises:
        ConfigError: something the user gave cannot be used; nothing was started.
        PeerError: a target rank died.
    """
    _check(options)
    target = plan_target(replace(options.models, tp=max(options.tps)))
    submits = make_submits(options.prompts, options.decode, target)
    drafting = any(mode != "autoregressive" for mode in options.modes)
    drafter = plan_drafter(options.models, target) if drafting else None
    specs = [_plan(options, target, drafter, submits, tp) for tp in options.tps]
    num_actors = sum(spec.num_actors for spec in specs) + 1
    with RaySession(options.models.ray_address, num_actors=num_actors), ExitStack() as stack:
        with _NOTES.status("starting") as status:
            deployments = [_start(stack, spec, status.update) for spec in specs]
            cases = _baseline_cases(options, specs[0], submits)
            cases += [
                _case(options, target, deployment, stack, submits, mode)
                for deployment in deployments
                for mode in options.modes
            ]
        _measure(cases, options)
    rows = [bench_row(case, cases[0]) for case in cases]
    if options.json:
        print(json.dumps({"config": _config(options, submits), "rows": rows}))
    else:
        output_console().print(bench_table(rows, options.repeats))
    return 0


def _check(options: BenchDecodeOptions) -> None:
    if options.baseline not in (None, "transformers"):
        raise ConfigError(f"--baseline is {options.baseline!r}: transformers is the one there is")
    if options.baseline and (options.models.virtual or options.decode.temperature):
        raise ConfigError("--baseline needs a real target and temperature 0 to compare tokens")
    for mode in options.modes:
        if mode not in list(DecodeMode):
            raise ConfigError(f"--modes has {mode!r}: choose among {', '.join(DecodeMode)}")
    for name, value in (("--repeats", options.repeats), ("--batch", options.batch)):
        if value < 1:
            raise ConfigError(f"{name} is {value}: at least 1 is needed")


def _plan(
    options: BenchDecodeOptions,
    target: PlannedModel,
    drafter: DrafterChoice | None,
    submits: list[Submit],
    tp: int,
) -> DeploymentSpec:
    models = replace(options.models, tp=tp)
    tokens = cache_tokens(submits, options.batch, target.max_positions)
    return plan_deployment(models, target, drafter, cache_tokens=tokens, stops=False)


def _start(stack: ExitStack, spec: DeploymentSpec, note: Callable[[str], None]) -> Deployment:
    deployment = stack.enter_context(Deployment(spec))
    deployment.start(note)
    return deployment


def _baseline_cases(
    options: BenchDecodeOptions, spec: DeploymentSpec, submits: list[Submit]
) -> list[Case]:
    if options.baseline is None:
        return []
    settings = spec.target
    actor = (
        ray.remote(BaselineActor)
        .options(num_cpus=0)
        .remote(settings.directory, settings.dtype, settings.device, settings.num_threads)
    )
    prompts = [submit.prompt_ids for submit in submits]

    def measure(max_tokens: int) -> Measured:
        outcome = ray.get(actor.generate.remote(prompts, max_tokens))
        return Measured(token_ids=outcome.token_ids, wall_s=outcome.wall_s, stats=None)

    return [Case(name="transformers", tp=1, measure=measure)]


def _case(
    options: BenchDecodeOptions,
    target: PlannedModel,
    deployment: Deployment,
    stack: ExitStack,
    submits: list[Submit],
    mode: str,
) -> Case:
    link = deployment.connect()
    stack.callback(link.close)
    spec = deployment.spec
    drafters = spec.num_drafters or int(spec.ngram)

    def measure(max_tokens: int) -> Measured:
        wanted = [replace(s, mode=DecodeMode(mode), max_tokens=max_tokens) for s in submits]
        start_s = time.perf_counter()
        results = run_requests(
            deployment, link, wanted, on_tokens=lambda *_: None, on_end=lambda _: None
        )
        wall_s = time.perf_counter() - start_s
        for result in results:
            if result.error:
                raise PacelineError(f"prompt {result.submit.request} failed: {result.error}")
        return Measured(
            token_ids=tuple(tuple(result.token_ids) for result in results),
            wall_s=wall_s,
            stats=total_stats(results, wall_s, tp=spec.tp, drafters=drafters),
        )

    return Case(
        name=mode,
        tp=spec.tp,
        measure=measure,
        predict=_predictor(options, target, mode),
        nominal_alpha=target.virtual.alpha if target.virtual else 0.0,
    )


def _predictor(
    options: BenchDecodeOptions, target: PlannedModel, mode: str
) -> Callable[[float], float] | None:
    """Return the cost formulas' tokens per second by acceptance rate, where they apply."""
    virtual, length = target.virtual, options.decode.draft_length
    if virtual is None or options.batch != 1 or (length is None and mode != "autoregressive"):
        return None
    return lambda alpha: throughput(
        DecodeMode(mode),
        alpha=alpha,
        draft_length=length or 0,
        target_s=lambda k: virtual.target_s + (k - 1) * virtual.position_s,
        draft_s=lambda k: k * virtual.draft_s,
    )


def _measure(cases: list[Case], options: BenchDecodeOptions) -> None:
    """Run the cases in turn, so that what else the machine does falls on all of them alike."""
    with Progress(
        TextColumn("measuring {task.fields[case]}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=_NOTES,
        transient=True,
        refresh_per_second=1,  # the cores are for what is measured
    ) as progress:
        task = progress.add_task("bench", total=len(cases) * (options.repeats + 1), case="")
        for repeat in range(options.repeats + 1):
            for case in cases:
                progress.update(task, case=f"{case.name} tp={case.tp}")
                warming = repeat == 0
                measured = case.measure(_WARM_UP_TOKENS if warming else options.decode.max_tokens)
                if not warming:
                    case.runs.append(measured)
                progress.advance(task)


def _config(options: BenchDecodeOptions, submits: list[Submit]) -> dict[str, object]:
    return {
        "target": options.models.target,
        "drafter": options.models.drafter,
        "virtual": options.models.virtual,
        "num_prompts": len(submits),
        "max_tokens": options.decode.max_tokens,
        "draft_length": options.decode.draft_length,
        "temperature": options.decode.temperature,
        "batch": options.batch,
        "repeats": options.repeats,
        "dtype": options.models.dtype,
        "threads": options.models.threads,
    }
