"""The tables of `paceline cluster check`."""

from typing import Any

from rich.console import Console
from rich.table import Table

_GIB = 1024**3


def print_report(report: dict[str, Any], console: Console) -> None:
    """Print what `Report.to_json` holds."""
    console.print(_nodes(report))
    if report["pairs"]:
        console.print(_pairs(report))
    reduce = report["all_reduce"]
    if reduce is not None:
        console.print(
            f"all-reduce over {len(report['facts'])} nodes: {reduce['small_s'] * 1e3:.2f} ms for "
            f"1 KiB, {reduce['large_s'] * 1e3:.2f} ms for 1 MiB"
        )
    if report["placement"]:
        console.print(f"placement: {report['placement']}", soft_wrap=True)
    if not report["problems"]:
        console.print("[green]no problem found[/]")


def _nodes(report: dict[str, Any]) -> Table:
    table = Table(title="nodes")
    for column in ("node", "host", "CPU free", "GPU free", "memory", "interfaces", "versions"):
        table.add_column(column)
    for node in report["nodes"]:
        facts = report["facts"].get(node["node_id"])
        free, total = node["free"], node["total"]
        table.add_row(
            f"{node['address']} ({node['node_id'][:6]})",
            facts["host"] if facts else node["hindrance"].partition(" (")[0] or "no answer",
            *(f"{free.get(name, 0):g} of {total.get(name, 0):g}" for name in ("CPU", "GPU")),
            f"{facts['memory_bytes'] / _GIB:.1f} GiB" if facts else "",
            ", ".join(f"{name} {address}" for name, address in facts["interfaces"])
            if facts
            else "",
            ", ".join(f"{name} {version}" for name, version in facts["versions"][:4])
            if facts
            else "",
        )
    return table


def _pairs(report: dict[str, Any]) -> Table:
    table = Table(title="between nodes, one TCP stream")
    for column in ("from", "to", "round trip", "bandwidth"):
        table.add_column(column)
    for pair in report["pairs"]:
        times = pair["times"]
        measured = ("none", "none")
        if times is not None:
            rate = times["bytes_per_s"] * 8 / 1e9
            measured = (f"{times['round_trip_s'] * 1e3:.2f} ms", f"{rate:.2f} Gbit/s")
        table.add_row(pair["first"], pair["second"], *measured)
    return table
