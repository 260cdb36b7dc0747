"""`paceline bench link`: round trips between two processes over each kind of link."""

import json
import secrets

import ray
from rich.console import Console
from rich.table import Table

from actors.echo_actor import EchoActor
from cluster.network.ray_errors import result_of
from cluster.network.ray_session import RaySession, beside_driver
from cluster.options.bench_options import BenchLinkOptions
from runtime.links.link_timing import RoundTrips
from runtime.node.echo import measure_grpc, measure_memory, measure_torch

_NOTES = Console(stderr=True)


def run(options: BenchLinkOptions) -> int:
    """Measure every link and print the figures; return the exit code.

    Raises:
        ConfigError: an option is out of range.
    """
    gap_s = options.gap_ms / 1000
    with RaySession(options.ray_address, num_actors=2), _NOTES.status("measuring"):
        here = beside_driver()  # measures links between processes of one machine
        echo = ray.remote(EchoActor).options(num_cpus=0, scheduling_strategy=here).remote()
        token = secrets.token_hex(16)
        address = result_of(echo.listen.remote(token), "the other end")
        spec = result_of(echo.offer.remote(), "the other end")
        measured = {
            "memory (threads)": measure_memory(options.count, gap_s),
            "grpc": measure_grpc(address, token, options.count, gap_s),
            "gloo": measure_torch(spec, options.count, gap_s),
        }
        result_of(echo.close.remote(), "the other end")
    if options.json:
        print(json.dumps({"gap_ms": options.gap_ms, "rows": _rows(measured)}))
    else:
        Console().print(_table(measured, options.gap_ms))
    return 0


def _rows(measured: dict[str, RoundTrips]) -> list[dict[str, object]]:
    return [
        {"link": name, "p50_s": trips.p50_s, "p99_s": trips.p99_s, "count": trips.count}
        for name, trips in measured.items()
    ]


def _table(measured: dict[str, RoundTrips], gap_ms: float) -> Table:
    table = Table(title=f"round trips, {gap_ms:g} ms apart")
    for title in ("link", "p50", "p99", "count"):
        table.add_column(title, justify="left" if title == "link" else "right")
    for name, trips in measured.items():
        p50, p99 = (f"{seconds * 1e3:.3f} ms" for seconds in (trips.p50_s, trips.p99_s))
        table.add_row(name, p50, p99, str(trips.count))
    return table
