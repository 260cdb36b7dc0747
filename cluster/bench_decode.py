"""`paceline bench decode`: decoding modes side by side, interleaved in one run."""

import json
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

import ray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from actors.baseline import BaselineActor
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
from cluster.report import Stats, total_stats
from cluster.requests import cache_tokens, make_submits
from cluster.session import run_requests
from parallel.decoding.cost import throughput
from parallel.decoding.types import DecodeMode
from parallel.messages import Submit
from runtime.errors import ConfigError, PacelineError

_NOTES = Console(stderr=True)
_WARM_UP_TOKENS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One run of one configuration."""

    token_ids: tuple[tuple[int, ...], ...]
    wall_s: float
    stats: Stats | None
    """None for the baseline."""


@dataclass(slots=True, kw_only=True)
class Case:
    """A configuration and its runs."""

    name: str
    tp: int
    measure: Callable[[int], Measured]
    """Runs all prompts once with this many tokens each."""
    predicted: float | None = None
    """Tokens per second by the cost formulas, for virtual devices."""
    runs: list[Measured] = field(default_factory=list)


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
    rows = [_row(case, cases[0]) for case in cases]
    if options.json:
        print(json.dumps({"config": _config(options, submits), "rows": rows}))
    else:
        Console().print(_table(rows, options))
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

    return Case(name=mode, tp=spec.tp, measure=measure, predicted=_predict(options, target, mode))


def _predict(options: BenchDecodeOptions, target: PlannedModel, mode: str) -> float | None:
    """Return the cost formulas' tokens per second, where they apply."""
    virtual, length = target.virtual, options.decode.draft_length
    if virtual is None or options.batch != 1 or (length is None and mode != "autoregressive"):
        return None
    return throughput(
        DecodeMode(mode),
        alpha=virtual.alpha,
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


def _row(case: Case, first: Case) -> dict[str, object]:
    speeds = [_speed(measured) for measured in case.runs]
    speed = statistics.median(speeds)
    stats = [measured.stats for measured in case.runs if measured.stats is not None]
    row: dict[str, object] = {
        "mode": case.name,
        "tp": case.tp,
        "tokens_per_s": round(speed, 3),
        "tokens_per_s_min": round(min(speeds), 3),
        "tokens_per_s_max": round(max(speeds), 3),
        "ratio_to_first": round(_ratio_to(case, first), 4),
        "identical": all(run.token_ids == first.runs[0].token_ids for run in case.runs),
        "acceptance_rate": _median([s.acceptance_rate for s in stats]),
        "alpha": _median([s.alpha for s in stats]),
        "mean_accepted_length": _median([s.mean_accepted_length for s in stats]),
        "overlap": _median([s.overlap for s in stats]),
        "ttft_s": _median([s.ttft_s for s in stats]),
        "drafted": stats[-1].drafted if stats else 0,
        "accepted": stats[-1].accepted if stats else 0,
        "missed_drafts": sum(s.missed_drafts for s in stats),
    }
    if case.predicted is not None:
        row["predicted_tokens_per_s"] = round(case.predicted, 3)
        row["ratio_to_predicted"] = round(speed / case.predicted, 4)
    return row


def _ratio_to(case: Case, first: Case) -> float:
    """Return the median of the ratios of neighbouring runs: drift hits both sides alike."""
    pairs = zip(case.runs, first.runs, strict=True)
    return statistics.median(_speed(mine) / _speed(theirs) for mine, theirs in pairs)


def _speed(measured: Measured) -> float:
    return sum(len(token_ids) for token_ids in measured.token_ids) / measured.wall_s


def _median(values: list[float]) -> float | None:
    return round(statistics.median(values), 4) if values else None


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


def _table(rows: list[dict[str, object]], options: BenchDecodeOptions) -> Table:
    table = Table(title=f"median of {options.repeats} interleaved runs")
    columns = {
        "mode": "mode",
        "tp": "tp",
        "tokens_per_s": "tokens/s",
        "ratio_to_first": "vs first",
        "acceptance_rate": "acceptance",
        "mean_accepted_length": "tokens/round",
        "overlap": "overlap",
        "identical": "identical",
    }
    predicted = any("predicted_tokens_per_s" in row for row in rows)
    for title in [*columns.values(), *(["vs formula"] if predicted else [])]:
        table.add_column(title, justify="left" if title == "mode" else "right")
    for row in rows:
        cells = [_cell(key, row[key]) for key in columns]
        cells[2] += f" ({row['tokens_per_s_min']:.1f}-{row['tokens_per_s_max']:.1f})"
        if predicted:
            cells.append(_cell("ratio_to_predicted", row.get("ratio_to_predicted")))
        table.add_row(*cells)
    return table


def _cell(key: str, value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.1f}" if key == "tokens_per_s" else f"{value:.2f}"
    return str(value)
