"""`paceline simulate shared-seed`: simulate machines on wide-area links in virtual time."""

import json
import tempfile
from dataclasses import asdict, fields
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from cluster.options.simulate_options import SimulateSeedsOptions
from cluster.reports.run_report import output_console
from runtime.training.shared_seed.compare import use_threads
from runtime.training.shared_seed.many_machines import WanSimulation
from runtime.training.shared_seed.sequencer import Rules
from runtime.training.shared_seed.wan import SimulatedRun, Wan

_LR = 0.01
_NAMES = {
    "rounds_per_hour": "rounds an hour",
    "hours": "virtual hours",
    "scalars_a_round": "scalars a round",
    "late_share": "of these a round late",
    "lost_scalars": "computed but never counted",
    "up_bytes": "bytes up, a machine and round",
    "down_bytes": "bytes down, a machine and round",
    "joins": "machines that joined during the run",
    "join_s": "seconds to join, median",
    "join_most_s": "seconds to join, maximum",
    "join_bytes": "bytes to join, median",
    "log_bytes": "bytes of the log",
    "loss_before": "loss before",
    "loss": "loss after",
    "witnesses_same": "replicas that joined at different times are bit-identical",
}


def run(options: SimulateSeedsOptions) -> int:
    """Simulate a run and print its figures; return the exit code."""
    wan = Wan(
        machines=options.machines,
        rounds=options.rounds,
        directions=options.directions,
        compute_s=options.compute_s,
        spread=options.spread,
        rtt_s=options.rtt_ms / 1000,
        mbit_s=options.mbit_s,
        loss=options.loss,
        leaves_per_hour=options.leaves_per_hour,
        seed=options.seed,
    )
    use_threads(1)
    rules = Rules(
        rounds=wan.rounds,
        lr=_LR,
        schedule="linear",
        patience=options.patience,
        deadline_s=options.deadline_s,
        max_scalars=max(64, wan.directions),
    )
    columns = (TextColumn("simulating"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    notes = Console(stderr=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        Progress(*columns, console=notes, transient=True) as progress,
    ):
        task = progress.add_task("", total=wan.rounds)
        simulation = WanSimulation(wan, rules, Path(folder))
        found = simulation.run(lambda number: progress.update(task, completed=number))
    if options.json:
        print(json.dumps({"config": asdict(wan), "result": asdict(found)}))
    else:
        output_console().print(_table(wan, found))
    return 0


def _table(wan: Wan, found: SimulatedRun) -> Table:
    table = Table(
        title=f"{wan.machines} machines, {wan.rtt_s * 1000:.0f} ms round trip, "
        f"{wan.mbit_s:g} Mbit/s, {wan.loss:.1%} lost, {wan.compute_s:g} s of computing",
        show_header=False,
    )
    for part in fields(found):
        if part.name in _NAMES:
            value = getattr(found, part.name)
            shown = f"{value:,.3g}" if isinstance(value, float) and value < 100 else f"{value:,.0f}"
            if isinstance(value, bool):
                shown = "yes" if value else "NO"
            table.add_row(_NAMES[part.name], shown)
    return table
