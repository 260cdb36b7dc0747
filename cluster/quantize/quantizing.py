"""`paceline quantize`: a copy of a model in integer codes, and what it changes."""

import json
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from cluster.options.quantize_options import QuantizeOptions
from parallel.weights.weight_format import WeightFormat
from runtime.models.checkpoint import resolve_model
from runtime.models.quantized_copy import QuantizedCopy, quantize_checkpoint

_NOTES = Console(stderr=True, highlight=False)
_MB = 1e6


def run(options: QuantizeOptions) -> int:
    """Write a copy of a model; return the exit code.

    Raises:
        ConfigError: the model cannot be used, or `out` exists.
    """
    directory = resolve_model(options.model)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=_NOTES, transient=True) as progress:
        task = progress.add_task(f"quantizing {options.model}", total=None)

        def watch(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        copy = quantize_checkpoint(directory, options.out, WeightFormat(options.weights), watch)
    if options.json:
        print(json.dumps({"out": str(options.out)} | _rows(copy)))
    else:
        _show(options.out, copy)
    return 0


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
