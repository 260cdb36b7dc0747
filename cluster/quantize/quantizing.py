"""`paceline quantize`: a copy of a model in integer codes, and what it changes."""

import json
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from cluster.options.quantize_options import QuantizeOptions
from cluster.quantize.copy_quality import NotMeasured, measure_copy, read_texts
from parallel.model.score_quality import ScoreQuality
from parallel.weights.weight_format import WeightFormat
from runtime.errors import ConfigError
from runtime.models.checkpoint import resolve_model
from runtime.models.quantized_copy import REPORT_FILE, QuantizedCopy, quantize_checkpoint

_NOTES = Console(stderr=True, highlight=False)
_MB = 1e6


def run(options: QuantizeOptions) -> int:
    """Write a copy of a model; return the exit code.

    Raises:
        ConfigError: the model or a text cannot be used, or `out` exists.
    """
    if options.texts is not None and not options.measure:
        raise ConfigError("`texts` is given, but `measure` is off: leave one of them out")
    directory = resolve_model(options.model)
    texts = (
        read_texts(directory, options.texts, limit=options.num_texts)
        if options.measure
        else NotMeasured(reason="scoring is switched off")
    )
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=_NOTES, transient=True) as progress:
        task = progress.add_task(f"quantizing {options.model}", total=None)

        def watch(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        copy = quantize_checkpoint(directory, options.out, WeightFormat(options.weights), watch)
    quality = (
        texts
        if isinstance(texts, NotMeasured)
        else measure_copy(directory, options.out, texts, _NOTES)
    )
    name = "the samples" if options.texts is None else str(options.texts)
    scores = {"texts": name} | _scores(quality)
    report = {"model": options.model} | _rows(copy) | {"quality": scores}
    text = json.dumps(report, indent=2) + "\n"
    (options.out / REPORT_FILE).write_text(text, encoding="utf-8")
    if options.json:
        print(json.dumps({"out": str(options.out)} | report))
    else:
        _show(options.out, copy)
        _show_scores(quality, name)
    return 0


def _scores(quality: ScoreQuality | NotMeasured) -> dict[str, object]:
    if isinstance(quality, NotMeasured):
        return {"not_measured": quality.reason}
    return {
        "scored_tokens": quality.num_tokens,
        "perplexity_before": round(quality.reference_perplexity, 6),
        "perplexity_after": round(quality.perplexity, 6),
        "perplexity_ratio": round(quality.perplexity_ratio, 8),
        "agreement": round(quality.agreement, 6),
        "kl": quality.mean_kl,
    }


def _rows(copy: QuantizedCopy) -> dict[str, object]:
    kinds = {
        name: {
            "matrices": kind.num_matrices,
            "formats": sorted(kind.formats),
            "relative_error": round(kind.relative, 8),
        }
        for name, kind in copy.kinds.items()
    }
    return {"bytes_before": copy.bytes_before, "bytes_after": copy.bytes_after, "kinds": kinds}


def _show(out: Path, copy: QuantizedCopy) -> None:
    table = Table("matrices", "number", "held in", "change (rms)", box=None)
    for name, kind in copy.kinds.items():
        formats = ", ".join(sorted(kind.formats))
        table.add_row(name, str(kind.num_matrices), formats, f"{kind.relative:.3%}")
    _NOTES.print(table)
    before, after = copy.bytes_before / _MB, copy.bytes_after / _MB
    _NOTES.print(f"{out}: {after:.1f} MB of weights, from {before:.1f} MB", soft_wrap=True)


def _show_scores(quality: ScoreQuality | NotMeasured, texts: str) -> None:
    if isinstance(quality, NotMeasured):
        _NOTES.print(f"perplexity was not measured: {quality.reason}", soft_wrap=True)
        return
    _NOTES.print(
        f"perplexity of {texts}: {quality.reference_perplexity:.4f} before, "
        f"{quality.perplexity:.4f} after ({quality.perplexity_ratio - 1:+.2%}); both have the same "
        f"best token before {quality.agreement:.1%} of the {quality.num_tokens:,} scored tokens",
        soft_wrap=True,
    )
