"""`paceline bench layer-parallel`: drafters that run several layers at once, on several ranks."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from rich.console import Console
from rich.table import Table

from cluster.bench.case_progress import case_progress
from cluster.charts.layers_chart import plot_layers
from cluster.deploy.deployment import Deployment
from cluster.deploy.deployment_plan import plan_deployment
from cluster.deploy.deployment_spec import DeploymentSpec
from cluster.deploy.drafter_capacity import DrafterCapacity
from cluster.deploy.drafter_plan import PlannedDrafter, find_drafter, plan_drafter
from cluster.deploy.drafting_modes import check_drafting
from cluster.deploy.driver_session import Result, run_requests
from cluster.deploy.target_plan import PlannedModel, plan_target
from cluster.generate.prompt_requests import cache_tokens, make_submits
from cluster.network.ray_session import RaySession
from cluster.options.bench_options import BenchLayersOptions
from cluster.placement.cluster_nodes import cluster_nodes
from cluster.reports.run_report import output_console, total_stats
from parallel.decoding.layer_groups import layer_groups
from parallel.decoding.types import DecodeMode
from parallel.messages import Submit
from runtime.errors import ConfigError, PacelineError
from runtime.hosts.drafter_spec import model_of
from runtime.links.link import Link

_NOTES = Console(stderr=True)
_WARM_UP_TOKENS = 8


def run(options: BenchLayersOptions) -> int:
    """Measure every width on every number of ranks and print the comparison; return the exit code.

    Raises:
        ConfigError: an option cannot be used; nothing was started.
        PeerError: a target rank died.
    """
    check_drafting(options.decode.mode)
    target = plan_target(options.models)
    with cluster_nodes(options.models.ray_address) as nodes:
        return _bench(options, target, DrafterCapacity(nodes=nodes))


def _bench(options: BenchLayersOptions, target: PlannedModel, capacity: DrafterCapacity) -> int:
    drafter = find_drafter(options.models, target, capacity)
    num_layers = _num_layers(options, target, drafter)
    submits = make_submits(options.input, options.decode, target)
    tokens = cache_tokens(submits, 1, target.max_positions)
    specs = {}
    for drafter_tp in options.drafter_tps:
        models = replace(options.models, drafter_tp=drafter_tp, layer_parallel=f"1@{options.first}")
        choice = plan_drafter(models, target, capacity)
        specs[drafter_tp] = plan_deployment(
            models, target, choice, cache_tokens=tokens, stops=False
        )
    rows: list[dict[str, object]] = []
    num_actors = max(spec.num_actors + spec.num_drafter_ranks for spec in specs.values())
    total = 1 + len(options.drafter_tps) * len(options.widths)
    with (
        RaySession(options.models.ray_address, num_actors=num_actors),
        case_progress(total, _NOTES) as start,
        Deployment(specs[options.drafter_tps[0]]) as deployment,
    ):
        deployment.start(lambda _: None)
        plain = [replace(submit, mode=DecodeMode.AUTOREGRESSIVE) for submit in submits]
        start("plain decoding")
        expected, plain_s = _measure(deployment, plain)
        for drafter_tp, spec in specs.items():
            for width in options.widths:
                start(f"{width} at a time on {drafter_tp} rank(s)")
                _swap(deployment, spec, width, calibrates=options.calibrate)
                results, wall_s = _measure(deployment, submits)
                row = _row(results, wall_s, drafter_tp=drafter_tp, width=width)
                row["attention_depth"] = len(layer_groups(num_layers, width, options.first))
                same = [r.token_ids for r in results] == [r.token_ids for r in expected]
                row["identical"] = same if not options.decode.temperature else None
                row["speedup"] = round(plain_s / wall_s, 3)
                rows.append(row)
    if options.plot is not None:
        plot_layers(rows, options.plot, title=f"{drafter.name} for {target.name}")
    if options.json:
        print(json.dumps({"config": _config(options, len(submits)), "rows": rows}))
    else:
        output_console().print(_table(rows))
    return 0


def _num_layers(options: BenchLayersOptions, target: PlannedModel, drafter: PlannedDrafter) -> int:
    """Return the number of the drafter's layers; raises ConfigError for a drafter without ranks."""
    if target.virtual is not None:
        if target.virtual.stack is None:
            raise ConfigError(
                f"`virtual` {options.models.virtual!r} has no layers to spread: write "
                "layers=32,attention=2ms,mlp=1ms in place of draft"
            )
        return target.virtual.stack.num_layers
    model = model_of(drafter.spec)
    if drafter.facts is None or model is None or not drafter.has_model_ranks:
        raise ConfigError(
            f"drafter {drafter.name} has no layers on ranks of its own: name a model with "
            "`drafter`, as target:layers=0-14"
        )
    return len(model.layers or range(drafter.facts.config.num_layers))


def _swap(deployment: Deployment, spec: DeploymentSpec, width: int, *, calibrates: bool) -> None:
    model = model_of(spec.drafter)
    assert model is not None
    assert model.layer_parallel is not None
    parallel = replace(model.layer_parallel, width=width)
    settings = replace(model, layer_parallel=parallel, calibrates=calibrates)
    deployment.swap_drafter(settings, spec.drafter.num_ranks)


def _measure(deployment: Deployment, submits: list[Submit]) -> tuple[list[Result], float]:
    """Return the results of the requests, one at a time, and the seconds they took."""
    link = deployment.connect()
    try:
        _run(deployment, link, [replace(submits[0], max_tokens=_WARM_UP_TOKENS)])
        start_s = time.perf_counter()
        results = [result for submit in submits for result in _run(deployment, link, [submit])]
        return results, time.perf_counter() - start_s
    finally:
        link.close()


def _run(deployment: Deployment, link: Link, submits: list[Submit]) -> list[Result]:
    results = run_requests(
        deployment,
        link,
        submits,
        on_tokens=lambda *_: None,
        on_end=lambda _: None,
    )
    for result in results:
        if result.error:
            raise PacelineError(f"prompt {result.submit.request} failed: {result.error}")
    return results


def _row(results: list[Result], wall_s: float, *, drafter_tp: int, width: int) -> dict[str, object]:
    stats = total_stats(results, wall_s, tp=1, drafter_tp=drafter_tp)
    return {
        "drafter_tp": drafter_tp,
        "layer_parallel": width,
        "draft_step_s": round(stats.draft_step_s, 6),
        "predicted_step_s": round(stats.predicted_step_s, 6),
        "alpha": round(stats.alpha, 4),
        "mean_accepted_length": round(stats.mean_accepted_length, 4),
        "tokens_per_s": round(stats.tokens_per_s, 3),
        "drafted": stats.drafted,
        "accepted": stats.accepted,
        "missed_drafts": stats.missed_drafts,
    }


def _config(options: BenchLayersOptions, num_prompts: int) -> dict[str, object]:
    return {
        "target": options.models.target,
        "drafter": options.models.drafter,
        "virtual": options.models.virtual,
        "mode": options.decode.mode,
        "calibrate": options.calibrate,
        "from": options.first,
        "num_prompts": num_prompts,
        "max_tokens": options.decode.max_tokens,
        "draft_length": options.decode.draft_length,
        "temperature": options.decode.temperature,
        "weights": options.models.weights,
        "threads": options.models.threads,
    }


def _table(rows: Sequence[Mapping[str, object]]) -> Table:
    table = Table(title="drafter layers at a time")
    for name in (
        "ranks",
        "at a time",
        "depth",
        "step",
        "predicted",
        "alpha",
        "tokens/round",
        "tokens/s",
        "vs plain",
        "identical",
    ):
        table.add_column(name, justify="right")
    for row in rows:
        same = {True: "yes", False: "NO", None: "-"}[row["identical"]]  # type: ignore[index]
        table.add_row(
            str(row["drafter_tp"]),
            str(row["layer_parallel"]),
            str(row["attention_depth"]),
            f"{float(str(row['draft_step_s'])) * 1000:.1f} ms",
            f"{float(str(row['predicted_step_s'])) * 1000:.1f} ms",
            f"{row['alpha']:.3f}",
            f"{row['mean_accepted_length']:.2f}",
            f"{row['tokens_per_s']:.1f}",
            f"{row['speedup']:.2f}",
            same,
        )
    return table
