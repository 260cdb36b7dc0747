"""`paceline bench decode`: decoding modes side by side, interleaved in one run."""

import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace

from rich.console import Console

from cluster.bench.measured_runs import measure_on, measure_transformers, start_transformers
from cluster.bench.prompt_groups import prompt_groups
from cluster.bench.rows import Case, bench_rows, bench_table
from cluster.bench.turns import take_turns
from cluster.deploy.deployment import Deployment
from cluster.deploy.deployment_plan import plan_deployment
from cluster.deploy.deployment_spec import DeploymentSpec
from cluster.deploy.drafter_capacity import DrafterCapacity
from cluster.deploy.drafter_plan import NOTHING_DRAFTS, PlannedDrafter, plan_drafter
from cluster.deploy.target_plan import PlannedModel, plan_target
from cluster.generate.prompt_requests import cache_tokens, make_submits
from cluster.network.ray_session import RaySession
from cluster.options.bench_options import BenchDecodeOptions
from cluster.placement.cluster_nodes import cluster_nodes
from cluster.reports.resume_file import ResumeFile
from cluster.reports.run_report import output_console
from parallel.decoding.modes.mode_registry import policy_of
from parallel.decoding.types import DecodeMode
from parallel.messages import Submit
from parallel.rounds.cost import throughput
from runtime.baselines.baseline_run import BASELINES
from runtime.errors import ConfigError

_NOTES = Console(stderr=True)


def run(options: BenchDecodeOptions) -> int:
    """Measure every configuration and print the comparison; return the exit code.

    Raises:
        ConfigError: an option cannot be used; nothing was started.
        PeerError: a target rank died.
    """
    _check(options)
    resume = ResumeFile(options.keep, _settings(options), verb="bench decode")
    target = plan_target(replace(options.models, tp=max(options.tps)))
    with cluster_nodes(options.models.ray_address) as nodes:
        return _bench(options, target, resume, DrafterCapacity(nodes=nodes))


def _bench(
    options: BenchDecodeOptions, target: PlannedModel, resume: ResumeFile, capacity: DrafterCapacity
) -> int:
    submits = make_submits(options.input, options.decode, target)
    drafting = any(policy_of(mode).drafts for mode in options.modes)
    drafter = plan_drafter(options.models, target, capacity) if drafting else NOTHING_DRAFTS
    specs = [_plan(options, target, drafter, submits, tp) for tp in options.tps]
    num_actors = sum(spec.num_actors for spec in specs) + 1
    with RaySession(options.models.ray_address, num_actors=num_actors), ExitStack() as stack:
        with _NOTES.status("starting") as status:
            deployments = [_start(stack, spec, status.update) for spec in specs]
            cases = _baseline_cases(options, specs[0])
            cases += [
                _case(options, target, deployment, stack, mode)
                for deployment in deployments
                for mode in options.modes
            ]
        groups = prompt_groups(options.input, submits, by_category=options.by_category)
        take_turns(
            cases,
            groups,
            repeats=options.repeats,
            batch=options.models.max_batch,
            max_tokens=options.decode.max_tokens,
            resume=resume,
        )
    rows = bench_rows(cases, list(groups))
    by_category = {name: bench_rows(cases, [name]) for name in groups if len(groups) > 1}
    if options.json:
        found = {"config": _settings(options) | {"num_prompts": len(submits)}, "rows": rows}
        print(json.dumps(found | ({"by_category": by_category} if by_category else {})))
        return 0
    console = output_console()
    console.print(bench_table(rows, f"median of {options.repeats} interleaved runs"))
    for name, some in by_category.items():
        console.print(bench_table(some, name))
    return 0


def _check(options: BenchDecodeOptions) -> None:
    if options.by_category and options.input.prompts is None:
        raise ConfigError("`by_category` needs `prompts` FILE, whose lines have a category")
    if options.baselines and (options.models.virtual or options.decode.temperature):
        raise ConfigError("`baselines` needs a real target and temperature 0 to compare tokens")


def _plan(
    options: BenchDecodeOptions,
    target: PlannedModel,
    drafter: PlannedDrafter,
    submits: list[Submit],
    tp: int,
) -> DeploymentSpec:
    models = replace(options.models, tp=tp)
    tokens = cache_tokens(submits, options.models.max_batch, target.max_positions)
    return plan_deployment(models, target, drafter, cache_tokens=tokens, stops=False)


def _start(stack: ExitStack, spec: DeploymentSpec, note: Callable[[str], None]) -> Deployment:
    deployment = stack.enter_context(Deployment(spec))
    deployment.start(note)
    return deployment


def _baseline_cases(options: BenchDecodeOptions, spec: DeploymentSpec) -> list[Case]:
    if not options.baselines:
        return []
    actor = start_transformers(spec.target)
    return [
        Case(name=name, tp=1, measure=measure_transformers(actor, BASELINES[name]))
        for name in options.baselines
    ]


def _case(
    options: BenchDecodeOptions,
    target: PlannedModel,
    deployment: Deployment,
    stack: ExitStack,
    mode: DecodeMode,
) -> Case:
    link = deployment.connect()
    stack.callback(link.close)

    return Case(
        name=mode,
        tp=deployment.spec.tp,
        measure=measure_on(deployment, link, mode),
        predict=_predictor(options, target, mode),
        nominal_alpha=target.virtual.alpha if target.virtual else 0.0,
    )


def _predictor(
    options: BenchDecodeOptions, target: PlannedModel, mode: DecodeMode
) -> Callable[[float], float] | None:
    """Return the cost formulas' tokens per second by acceptance rate, where they apply."""
    virtual, length = target.virtual, options.decode.draft_length
    policy = policy_of(mode)
    if virtual is None or options.models.max_batch != 1 or policy.choices:
        return None
    if length is None and policy.drafts:
        return None
    return lambda alpha: throughput(
        mode,
        alpha=alpha,
        draft_length=length or 0,
        target_s=lambda k: virtual.target_s + (k - 1) * virtual.position_s,
        draft_s=lambda k: k * virtual.draft_s,
    )


def _settings(options: BenchDecodeOptions) -> dict[str, object]:
    return {
        "target": options.models.target,
        "drafter": options.models.drafter,
        "drafter_tp": options.models.num_drafter_ranks,
        "virtual": options.models.virtual,
        "max_tokens": options.decode.max_tokens,
        "draft_length": options.decode.draft_length,
        "temperature": options.decode.temperature,
        "seed": options.decode.seed,
        "batch": options.models.max_batch,
        "repeats": options.repeats,
        "weights": options.models.weights,
        "threads": options.models.threads,
    }
