"""`paceline draft eval`: compare drafters on the same prompts.

Each prompt is decoded with and without the drafter, in immediate succession, so that other load
on the machine affects both equally.
"""

import json
from collections.abc import Sequence
from dataclasses import replace

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from cluster.charts.drafters_chart import plot_drafters
from cluster.deploy.deployment import Deployment
from cluster.deploy.deployment_plan import plan_deployment
from cluster.deploy.drafter_capacity import DrafterCapacity
from cluster.deploy.drafter_plan import plan_drafter
from cluster.deploy.drafting_modes import check_drafting
from cluster.deploy.driver_session import Result, run_requests
from cluster.deploy.target_plan import PlannedModel, plan_target
from cluster.draft.draft_eval_store import EvalPair, find_pair, keep_pair
from cluster.generate.prompt_requests import cache_tokens, make_submits
from cluster.network.ray_session import RaySession
from cluster.options.draft_options import DraftEvalOptions
from cluster.options.generate_options import DecodeOptions
from cluster.placement.cluster_nodes import cluster_nodes
from cluster.reports.resume_file import ResumeFile
from cluster.reports.run_report import output_console
from parallel.decoding.types import DecodeMode
from parallel.messages import Submit
from parallel.rounds.cost import throughput
from runtime.checking.prompt_files import read_prompts
from runtime.errors import ConfigError, PacelineError

_NOTES = Console(stderr=True)
_ALL = "all"


def run(options: DraftEvalOptions) -> int:
    """Run every drafter over the prompts and print the comparison; return the exit code.

    Raises:
        ConfigError: an option cannot be used; nothing was started.
        PeerError: a target rank died.
    """
    if options.input.prompts is None:
        raise ConfigError("`prompts` is missing: name a file of prompts")
    check_drafting(options.mode)
    target = plan_target(options.models)
    with cluster_nodes(options.models.ray_address) as nodes:
        return _evaluate(options, target, DrafterCapacity(nodes=nodes))


def _evaluate(options: DraftEvalOptions, target: PlannedModel, capacity: DrafterCapacity) -> int:
    mode = options.mode
    decode = DecodeOptions(
        mode=mode,
        draft_length=options.draft_length,
        max_tokens=options.max_tokens,
        temperature=options.temperature,
        seed=options.seed,
        ignore_eos=True,
    )
    submits = make_submits(options.input, decode, target)
    assert options.input.prompts is not None
    records = read_prompts(options.input.prompts, limit=options.input.num_prompts)
    categories = [record.category or _ALL for record in records]
    choices = [
        plan_drafter(replace(options.models, drafter=name), target, capacity)
        for name in options.drafters
    ]
    kept = ResumeFile(options.keep, _settings(options, target), verb="draft eval")
    rows = []
    num_actors = max(2, options.models.tp + 1)
    with RaySession(options.models.ray_address, num_actors=num_actors), _progress() as progress:
        task = progress.add_task("evaluating", total=len(choices) * len(submits), drafter="")
        for name, choice in zip(options.drafters, choices, strict=True):
            progress.update(task, drafter=name)
            tokens = cache_tokens(submits, 1, target.max_positions)
            spec = plan_deployment(options.models, target, choice, cache_tokens=tokens, stops=False)
            with Deployment(spec) as deployment:
                pairs = []
                for submit, category in zip(submits, categories, strict=True):
                    pair = find_pair(kept, name, submit, category)
                    if pair is None:
                        if not deployment.target_ranks:
                            deployment.start(lambda _: None)
                        pair = _pair(deployment, submit, category)
                        keep_pair(kept, name, pair)
                    pairs.append(pair)
                    progress.advance(task)
            rows.append(_row(name, pairs, mode, options.draft_length))
    if options.plot is not None:
        plot_drafters(rows, options.plot, title=f"{target.name}, {mode}")
    if options.json:
        print(json.dumps({"config": _config(options, target, len(submits)), "rows": rows}))
    else:
        for table in _tables(rows):
            output_console().print(table)
    return 0


def _pair(deployment: Deployment, submit: Submit, category: str) -> EvalPair:
    plain = replace(submit, mode=DecodeMode.AUTOREGRESSIVE)
    first, second = (
        _run_one(deployment, wanted)
        for wanted in ((plain, submit) if submit.request % 2 else (submit, plain))
    )
    if submit.request % 2 == 0:
        first, second = second, first
    return EvalPair(category=category, plain=first, drafted=second)


def _run_one(deployment: Deployment, submit: Submit) -> Result:
    link = deployment.connect()
    try:
        (result,) = run_requests(
            deployment, link, [submit], on_tokens=lambda *_: None, on_end=lambda _: None
        )
    finally:
        link.close()
    if result.error:
        raise PacelineError(f"prompt {submit.request} failed: {result.error}")
    return result


def _row(name: str, pairs: Sequence[EvalPair], mode: DecodeMode, length: int) -> dict[str, object]:
    by_category: dict[str, list[EvalPair]] = {_ALL: list(pairs)}
    for pair in pairs:
        if pair.category != _ALL:
            by_category.setdefault(pair.category, []).append(pair)
    return {
        "drafter": name,
        "by_category": {
            category: _figures(some, mode, length) for category, some in by_category.items()
        },
    }


def _figures(pairs: Sequence[EvalPair], mode: DecodeMode, length: int) -> dict[str, object]:
    drafts = [pair.drafted.stats for pair in pairs]
    accepted, rejected = sum(s.accepted for s in drafts), sum(s.rejected for s in drafts)
    drafted = sum(s.drafted for s in drafts)
    tokens = sum(len(pair.drafted.token_ids) for pair in pairs)
    plain_s = sum(pair.plain.stats.total_s - pair.plain.stats.ttft_s for pair in pairs)
    plain_tokens = sum(len(pair.plain.token_ids) - 1 for pair in pairs)
    target_s = plain_s / max(1, plain_tokens)
    cost = sum(s.draft_s for s in drafts) / max(1, drafted) / target_s if target_s else 0.0
    alpha = accepted / max(1, accepted + rejected)
    return {
        "prompts": len(pairs),
        "drafted": drafted,
        "accepted": accepted,
        "acceptance_rate": _round(accepted / max(1, drafted)),
        "alpha": _round(alpha),
        "alpha_at": _alpha_at([s.tested_at for s in drafts], [s.accepted_at for s in drafts]),
        "mean_accepted_length": _round(tokens / max(1, sum(s.rounds for s in drafts))),
        "cost_ratio": _round(cost),
        "predicted_speedup": _round(_predicted(mode, alpha, length, cost)),
        "measured_speedup": _round(
            sum(pair.plain.stats.total_s for pair in pairs)
            / max(1e-9, sum(pair.drafted.stats.total_s for pair in pairs))
        ),
        "identical": all(pair.plain.token_ids == pair.drafted.token_ids for pair in pairs),
    }


def _predicted(mode: DecodeMode, alpha: float, length: int, cost: float) -> float:
    """Return the speed-up of the cost formula, in which scoring a draft takes one plain step."""

    def rate(kind: DecodeMode) -> float:
        return throughput(
            kind,
            alpha=alpha,
            draft_length=length,
            target_s=lambda _: 1.0,
            draft_s=lambda steps: steps * cost,
        )

    return rate(mode) / rate(DecodeMode.AUTOREGRESSIVE)


def _alpha_at(
    tested: Sequence[tuple[int, ...]], accepted: Sequence[tuple[int, ...]]
) -> list[float]:
    """Return the acceptance of each draft token, given that all before it are accepted."""
    longest = max(map(len, tested), default=0)
    return [
        _round(
            sum(counts[place] for counts in accepted if place < len(counts))
            / max(1, sum(counts[place] for counts in tested if place < len(counts)))
        )
        for place in range(longest)
    ]


def _config(options: DraftEvalOptions, target: PlannedModel, num: int) -> dict[str, object]:
    return _settings(options, target) | {"num_prompts": num}


def _settings(options: DraftEvalOptions, target: PlannedModel) -> dict[str, object]:
    return {
        "target": target.name,
        "mode": options.mode,
        "draft_length": options.draft_length,
        "max_tokens": options.max_tokens,
        "temperature": options.temperature,
        "seed": options.seed,
        "tp": options.models.tp,
        "threads": options.models.threads,
        "weights": options.models.weights,
    }


def _tables(rows: Sequence[dict[str, object]]) -> list[Table]:
    """Return the comparison over all prompts, and each drafter by category if there are any."""
    whole = _table("all prompts", "drafter")
    tables = [whole]
    for row in rows:
        by_category = row["by_category"]
        assert isinstance(by_category, dict)
        _add(whole, str(row["drafter"]), by_category[_ALL])
        if len(by_category) > 1:
            table = _table(str(row["drafter"]), "category")
            for category, figures in by_category.items():
                if category != _ALL:
                    _add(table, category, figures)
            tables.append(table)
    return tables


def _table(title: str, first: str) -> Table:
    table = Table(title=title)
    table.add_column(first)
    for name in (
        "acceptance",
        "by position",
        "tokens/round",
        "t_d/t_T",
        "predicted",
        "measured",
        "identical",
    ):
        table.add_column(name, justify="right")
    return table


def _add(table: Table, name: str, figures: dict[str, object]) -> None:
    alpha_at = figures["alpha_at"]
    assert isinstance(alpha_at, list)
    table.add_row(
        name,
        f"{figures['alpha']:.2f}",
        " ".join(f"{alpha:.2f}" for alpha in alpha_at),
        f"{figures['mean_accepted_length']:.2f}",
        f"{figures['cost_ratio']:.3f}",
        f"{figures['predicted_speedup']:.2f}",
        f"{figures['measured_speedup']:.2f}",
        "yes" if figures["identical"] else "no",
    )


def _progress() -> Progress:
    return Progress(
        TextColumn("evaluating {task.fields[drafter]}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=_NOTES,
        transient=True,
        refresh_per_second=1,  # leaves the cores to the measurement
    )


def _round(value: float) -> float:
    return round(value, 4)
