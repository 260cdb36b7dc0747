"""`paceline bench quality`: weight formats compared with a model's float32 reading."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from cluster.bench.case_progress import case_progress
from cluster.deploy.target_plan import plan_target
from cluster.options.bench_options import BenchQualityOptions
from cluster.reports.environment import environment
from cluster.reports.json_report import report_json
from cluster.reports.resume_file import ResumeFile
from cluster.reports.run_report import output_console
from parallel.model.score_quality import ScoreQuality
from runtime.hosts.weight_quality import Reading, WeightQuality
from runtime.models.scored_texts import ScoredText, read_scored_texts
from runtime.node.cores import usable_cores

_NOTES = Console(stderr=True)


def run(options: BenchQualityOptions) -> int:
    """Score the texts in every format and print the comparison; return the exit code.

    Raises:
        ConfigError: the model, a text or an option cannot be used.
    """
    target = plan_target(options.models)
    assert target.facts is not None
    assert target.tokenizer is not None
    max_tokens = min(options.max_tokens, target.max_positions)
    texts = read_scored_texts(
        options.texts,
        target.tokenizer,
        limit=options.num_texts,
        max_tokens=max_tokens,
        chat=options.chat,
    )
    config: dict[str, object] = {"target": options.models.target, "formats": list(options.formats)}
    resume = ResumeFile(options.keep, config, verb="bench quality")
    with _NOTES.status("loading the model in each format"):
        directory = target.facts.directory
        quality = WeightQuality(
            Reading(directory, "float32"),
            {name: Reading(directory, name) for name in options.formats},
            num_threads=options.models.threads or usable_cores(),
            max_tokens=max_tokens,
        )
    totals: dict[str, ScoreQuality] = dict.fromkeys(options.formats, ScoreQuality())
    with case_progress(len(texts), _NOTES) as start:
        for number, text in enumerate(texts, 1):
            start(f"text {number}")
            for name, found in _measured(quality, text, resume).items():
                totals[name] += found
    _report(options, config | {"num_texts": len(texts)}, totals)
    return 0


def _measured(
    quality: WeightQuality, text: ScoredText, resume: ResumeFile
) -> dict[str, ScoreQuality]:
    """Return the stored figures of a text, or measure and store them."""
    key = hashlib.sha256(repr((text.token_ids, text.num_given)).encode()).hexdigest()[:16]
    stored = resume.find(key)
    if stored is not None:
        return {name: ScoreQuality(**fields) for name, fields in stored.items()}
    found = quality.compare(text)
    resume.store(key, {name: asdict(one) for name, one in found.items()})
    return found


def _report(
    options: BenchQualityOptions, config: dict[str, object], totals: Mapping[str, ScoreQuality]
) -> None:
    rows = [_row(name, total) for name, total in totals.items()]
    found = {"config": config, "environment": environment(), "rows": rows}
    if report_json(found, options.out, prints=options.json):
        return
    num_tokens = next(iter(totals.values())).num_tokens
    table = Table(title=f"{config['num_texts']} texts, {num_tokens:,} scored tokens")
    for name in ("weights", "perplexity", "to float32", "same best token", "KL"):
        table.add_column(name, justify="left" if name == "weights" else "right")
    for name, total in totals.items():
        table.add_row(
            name,
            f"{total.perplexity:.4f}",
            f"{total.perplexity_ratio - 1:+.3%}",
            f"{total.agreement:.3%}",
            f"{total.mean_kl:.2e}",
        )
    output_console().print(table)


def _row(name: str, total: ScoreQuality) -> dict[str, object]:
    return {
        "weights": name,
        "scored_tokens": total.num_tokens,
        "perplexity": round(total.perplexity, 6),
        "perplexity_ratio": round(total.perplexity_ratio, 8),
        "agreement": round(total.agreement, 6),
        "kl": total.mean_kl,
    }
