"""`paceline bench guesses`: how soon a drafter's guesses hold the target's tokens."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from rich.console import Console
from rich.table import Table

from cluster.bench.case_progress import case_progress
from cluster.deploy.drafter_capacity import DrafterCapacity
from cluster.deploy.drafter_plan import find_drafter
from cluster.deploy.target_plan import PlannedModel, plan_target, target_settings
from cluster.generate.prompt_requests import make_submits
from cluster.options.bench_options import BenchGuessesOptions
from cluster.options.generate_options import DecodeOptions
from cluster.reports.environment import environment
from cluster.reports.json_report import report_json
from cluster.reports.resume_file import ResumeFile
from cluster.reports.run_report import output_console
from parallel.decoding.types import SamplingParams
from parallel.messages import Submit
from runtime.errors import ConfigError
from runtime.hosts.drafter_spec import model_of
from runtime.hosts.guess_bench import NUM_GUESSES, NUM_OUTCOMES, GuessBench, GuessFigures
from runtime.hosts.rank_settings import ModelSettings
from runtime.node.cores import usable_cores

_NOTES = Console(stderr=True)
_SHOWN = (1, 2, 4, 8, 12, 16, 24, 32)
"""Numbers of outcomes in the table."""
_ORDERS = {
    "perturbed": "with the target's noise",
    "by_probability": "drawn, then by probability",
    "without_replacement": "without replacement, rejection",
}


def run(options: BenchGuessesOptions) -> int:
    """Measure each prompt at each temperature and print the tables; return the exit code.

    Raises:
        ConfigError: a model, a prompt or an option cannot be used.
    """
    target = plan_target(options.models)
    submits = _submits(options, target)
    settings = _settings(options, target, submits)
    config: dict[str, object] = {
        "target": options.models.target,
        "drafter": options.models.drafter,
        "weights": options.models.weights,
        "max_tokens": options.max_tokens,
        "draft_length": options.draft_length,
        "seed": options.seed,
    }
    resume = ResumeFile(options.keep, config, verb="bench guesses")
    with _NOTES.status("loading target and drafter"):
        bench = GuessBench(*settings, draft_length=options.draft_length)
    totals = {temperature: GuessFigures() for temperature in options.temperatures}
    with case_progress(len(submits), _NOTES) as start:
        for number, submit in enumerate(submits, 1):
            start(f"prompt {number}")
            for temperature, total in totals.items():
                sampling = SamplingParams(temperature=temperature, seed=options.seed)
                total.add(_measured(bench, submit, sampling, resume))
    _report(options, config | {"num_prompts": len(submits)}, totals)
    return 0


def _submits(options: BenchGuessesOptions, target: PlannedModel) -> list[Submit]:
    decode = DecodeOptions(max_tokens=options.max_tokens, seed=options.seed)
    return make_submits(options.input, decode, target)


def _settings(
    options: BenchGuessesOptions, target: PlannedModel, submits: Sequence[Submit]
) -> tuple[ModelSettings, ModelSettings]:
    """Return how target and drafter run here.

    Raises:
        ConfigError: nothing with a model drafts.
    """
    if target.virtual is not None:
        raise ConfigError("`virtual` devices guess by chance: name a model as `target`")
    drafter = find_drafter(options.models, target, DrafterCapacity(nodes=()))
    model = model_of(drafter.spec)
    if model is None:
        raise ConfigError(f"`drafter` is {drafter.name}, which ranks no tokens: name a model")
    threads = options.models.threads or usable_cores()
    longest = max(len(submit.prompt_ids) for submit in submits) + options.max_tokens
    room = longest + NUM_OUTCOMES * options.draft_length + 2 * model.page_size
    alone = {"num_threads": threads, "cache_tokens": room, "shares_prefixes": False}
    first = replace(target_settings(options.models, target), **alone)  # type: ignore[arg-type]
    return first, replace(model, **alone)  # type: ignore[arg-type]


def _measured(
    bench: GuessBench, submit: Submit, sampling: SamplingParams, resume: ResumeFile
) -> GuessFigures:
    """Return the stored figures of a prompt, or measure and store them."""
    case = repr((submit.prompt_ids, sampling.temperature))
    key = hashlib.sha256(case.encode()).hexdigest()[:16]
    stored = resume.find(key)
    if stored is not None:
        return GuessFigures.from_json(stored)
    found = bench.measure(submit.prompt_ids, sampling, submit.max_tokens)
    resume.store(key, found.to_json())
    return found


def _report(
    options: BenchGuessesOptions, config: dict[str, object], totals: dict[float, GuessFigures]
) -> None:
    rows = [{"temperature": t, **figures.to_json()} for t, figures in totals.items()]
    found = {"config": config, "environment": environment(), "rows": rows}
    if report_json(found, options.out, prints=options.json):
        return
    num_places = sum(figures.num_places for figures in totals.values())
    title = f"{config['num_prompts']} prompts, {num_places:,} tokens: "
    for table in (_guesses(title, totals), _outcomes(title, totals)):
        output_console().print(table)


def _guesses(title: str, totals: dict[float, GuessFigures]) -> Table:
    """Return the share of tokens among the first guesses, and of recovered ones."""
    table = Table(title=f"{title}the target's token is among the first guesses")
    for name in ("temperature", "order"):
        table.add_column(name)
    for num in range(1, NUM_GUESSES + 1):
        table.add_column(str(num), justify="right")
    for temperature, figures in totals.items():
        for name, label in _ORDERS.items():
            if temperature == 0 and name != "perturbed":
                continue  # the same order
            shares = getattr(figures, name) / max(figures.num_places, 1)
            table.add_row(f"{temperature:g}", label, *(f"{share:.3f}" for share in shares))
            missed = max(1 - shares[0], 1e-12)
            recovered = ((share - shares[0]) / missed for share in shares[1:])
            table.add_row("", "  where the first is wrong", "", *(f"{s:.3f}" for s in recovered))
    return table


def _outcomes(title: str, totals: dict[float, GuessFigures]) -> Table:
    """Return the share of verdicts among the likeliest outcomes."""
    table = Table(title=f"{title}the verdict is among the likeliest outcomes")
    for name in ("temperature", "verdicts"):
        table.add_column(name)
    for num in _SHOWN:
        table.add_column(str(num), justify="right")
    for temperature, figures in totals.items():
        for label, num, hits in (
            ("all", figures.num_verdicts, figures.hits),
            ("that reject a draft", figures.num_rejections, figures.recovered),
        ):
            cells = (f"{hits[shown - 1] / max(num, 1):.3f}" for shown in _SHOWN)
            table.add_row(f"{temperature:g}", f"{label} ({num:,})", *cells)
    return table
