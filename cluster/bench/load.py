"""`paceline bench serve`: many clients against a running server, as they would come.

Open loop: requests arrive at random times of a given rate whether or not earlier ones are done, so
a slow server is seen as slow (coordinated omission does not hide it). With rate 0 each client asks
again as soon as it has its answer: that finds the most that a server can do.
"""

import asyncio
import json
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from cluster.charts.serving_chart import plot_serving
from cluster.network.server_connection import connected, credentials_of
from cluster.options.bench_options import BenchServeOptions
from cluster.reports.run_report import output_console
from runtime.checking.prompt_files import PromptRecord, read_prompts
from runtime.client import AsyncClient, Prompt, ServiceError
from runtime.errors import ConfigError, PacelineError

_REFUSED = "RESOURCE_EXHAUSTED"
_SETTLE_S = 1.5


@dataclass(slots=True)
class Outcome:
    """One request, as its client saw it."""

    asked_s: float
    """When it was due, from the start of the run."""
    first_s: float | None = None
    end_s: float | None = None
    gaps_s: list[float] = field(default_factory=list)
    """Between tokens; tokens that came together share their gap."""
    num_tokens: int = 0
    drafted: int = 0
    accepted: int = 0
    error: str = ""

    @property
    def ttft_s(self) -> float:
        """Time to the first token."""
        assert self.first_s is not None
        return self.first_s - self.asked_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What one run came to; times are seconds."""

    mode: str
    repeat: int
    requests: int
    completed: int
    rejected: int
    """Turned away because the server was full."""
    failed: int
    wall_s: float
    tokens_per_s: float
    requests_per_s: float
    goodput: float
    """Completed requests a second that kept both bounds."""
    acceptance: float
    engine_busy: float
    """Share of the time in the target's forwards and in drafting that they waited for; the rest is
    scheduling, transport, and a server with nothing to do."""
    ttft_s: tuple[float, float, float]
    """p50, p90, p99."""
    gap_s: tuple[float, float, float]
    total_s: tuple[float, float, float]


def run(options: BenchServeOptions) -> int:
    """Measure a server; return the exit code: 1 if no request succeeded.

    Raises:
        ConfigError: an option or the file of prompts cannot be used.
        ServiceError: the server was not to be reached.
    """
    _check(options)
    credentials_of(options.connect)  # refuses what each client would find wrong
    records = read_prompts(options.prompts, limit=options.num_prompts, extra_keys=())
    loads = asyncio.run(_measure(options, records))
    if options.plot is not None:
        plot_serving([asdict(load) for load in loads], options.plot, title=_title(options))
    if options.json:
        for load in loads:
            print(json.dumps(asdict(load)))
    else:
        output_console().print(_table(loads, _title(options)))
    return 0 if any(load.completed for load in loads) else 1


def _check(options: BenchServeOptions) -> None:
    for name, value, least in (
        ("--clients", options.clients, 1),
        ("--rate", options.rate, 0),
        ("--requests", options.requests if options.requests is not None else 1, 1),
        ("--repeats", options.repeats, 1),
        ("--max-tokens", options.max_tokens, 1),
    ):
        if value < least:
            raise ConfigError(f"{name} is {value}: at least {least} is needed")


async def _measure(options: BenchServeOptions, records: Sequence[PromptRecord]) -> list[Load]:
    num = options.requests or len(records)
    modes = options.modes or ("",)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    loads = []
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True)) as progress:
        task = progress.add_task("requests", total=num * len(modes) * options.repeats)
        for repeat in range(options.repeats):
            for mode in modes:  # interleaved, so that a slow spell of the machine hits all
                progress.update(task, description=mode or "requests")
                bench = _Run(options, records, mode, lambda: progress.advance(task))
                before_s = await asyncio.to_thread(_engine_s, options)
                outcomes, wall_s = await bench.run(num, seed=options.seed + repeat)
                engine_s = await asyncio.to_thread(_engine_s, options) - before_s
                busy = round(engine_s / wall_s, 3)
                loads.append(
                    summary(outcomes, wall_s, options, mode=mode, repeat=repeat, busy=busy)
                )
    return loads


class _Run:
    """One run of requests in one mode."""

    def __init__(
        self,
        options: BenchServeOptions,
        records: Sequence[PromptRecord],
        mode: str,
        done: Callable[[], None],
    ) -> None:
        self._options = options
        self._records = records
        self._mode = mode
        self._done = done
        self._start_s = 0.0

    async def run(self, num: int, *, seed: int) -> tuple[list[Outcome], float]:
        """Return every request's outcome and the seconds that all took."""
        options = self._options
        credentials = credentials_of(options.connect)
        clients = [
            AsyncClient(options.connect.server, credentials=credentials)
            for _ in range(options.clients)
        ]
        self._start_s = time.monotonic()
        try:
            if options.rate:
                outcomes = await self._open_loop(clients, num, random.Random(seed))
            else:
                outcomes = await self._closed_loop(clients, num)
            return outcomes, time.monotonic() - self._start_s
        finally:
            for client in clients:
                await client.close()

    async def _open_loop(
        self, clients: list[AsyncClient], num: int, draw: random.Random
    ) -> list[Outcome]:
        due_s, tasks = 0.0, []
        for index in range(num):
            due_s += draw.expovariate(self._options.rate)
            await asyncio.sleep(max(0.0, self._start_s + due_s - time.monotonic()))
            client = clients[index % len(clients)]
            tasks.append(asyncio.create_task(self._ask(client, index, due_s)))
        return list(await asyncio.gather(*tasks))

    async def _closed_loop(self, clients: list[AsyncClient], num: int) -> list[Outcome]:
        numbers = iter(range(num))
        outcomes: list[Outcome] = []

        async def work(client: AsyncClient) -> None:
            for index in numbers:
                asked_s = time.monotonic() - self._start_s
                outcomes.append(await self._ask(client, index, asked_s))

        await asyncio.gather(*(work(client) for client in clients))
        return outcomes

    async def _ask(self, client: AsyncClient, index: int, asked_s: float) -> Outcome:
        options, record = self._options, self._records[index % len(self._records)]
        prompt: Prompt = record.text or ""
        if record.messages is not None:
            prompt = record.messages
        elif options.chat:
            prompt = [{"role": "user", "content": record.text or ""}]
        outcome = Outcome(asked_s)
        last_s = asked_s
        try:
            async for chunk in client.generate(
                prompt,
                max_tokens=options.max_tokens,
                mode=self._mode or None,
                ignore_eos=options.ignore_eos,
                patience_s=0,
            ):
                now_s = time.monotonic() - self._start_s
                if chunk.token_ids:
                    if outcome.first_s is None:
                        outcome.first_s = now_s
                    else:
                        size = len(chunk.token_ids)
                        outcome.gaps_s += [(now_s - last_s) / size] * size
                    last_s = now_s
                    outcome.num_tokens += len(chunk.token_ids)
                if chunk.stats is not None:
                    outcome.end_s = now_s
                    outcome.drafted, outcome.accepted = chunk.stats.drafted, chunk.stats.accepted
        except PacelineError as error:
            outcome.error = error.code if isinstance(error, ServiceError) else str(error)
        self._done()
        return outcome


def _engine_s(options: BenchServeOptions) -> float:
    """Return how long the server's engine has computed so far."""
    time.sleep(_SETTLE_S)  # the server asks its engine once a second
    with connected(options.connect) as client:
        engine = client.status().engine
    return engine.target_s + engine.draft_s - engine.hidden_s


def summary(
    outcomes: Sequence[Outcome],
    wall_s: float,
    options: BenchServeOptions,
    *,
    mode: str,
    repeat: int,
    busy: float,
) -> Load:
    """Return what a run came to."""
    done = [o for o in outcomes if not o.error and o.first_s is not None and o.end_s is not None]
    good = [o for o in done if _is_good(o, options)]
    drafted = sum(o.drafted for o in done)
    rejected = sum(o.error == _REFUSED for o in outcomes)
    return Load(
        mode=mode or "default",
        repeat=repeat,
        requests=len(outcomes),
        completed=len(done),
        rejected=rejected,
        failed=len(outcomes) - len(done) - rejected,
        wall_s=round(wall_s, 3),
        tokens_per_s=round(sum(o.num_tokens for o in done) / wall_s, 2),
        requests_per_s=round(len(done) / wall_s, 3),
        goodput=round(len(good) / wall_s, 3),
        acceptance=round(sum(o.accepted for o in done) / drafted, 3) if drafted else 0.0,
        engine_busy=busy,
        ttft_s=_percentiles([o.ttft_s for o in done]),
        gap_s=_percentiles([gap for o in done for gap in o.gaps_s]),
        total_s=_percentiles([(o.end_s or 0.0) - o.asked_s for o in done]),
    )


def _is_good(outcome: Outcome, options: BenchServeOptions) -> bool:
    gap_s = statistics.fmean(outcome.gaps_s) if outcome.gaps_s else 0.0
    return outcome.ttft_s <= options.ttft_s and gap_s <= options.gap_s


def _percentiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Return p50, p90 and p99: the smallest value that so many do not exceed."""
    ranked = sorted(values)
    if not ranked:
        return (0.0, 0.0, 0.0)
    p50, p90, p99 = (ranked[max(0, -(-len(ranked) * p // 100) - 1)] for p in (50, 90, 99))
    return (round(p50, 4), round(p90, 4), round(p99, 4))


def _title(options: BenchServeOptions) -> str:
    load = f"{options.rate:g} requests/s" if options.rate else "as fast as answered"
    return f"{options.connect.server}: {options.clients} clients, {load}"


def medians(loads: Sequence[Load]) -> list[Load]:
    """Return one row for each mode: the median of every figure over its runs."""
    found = []
    for mode in dict.fromkeys(load.mode for load in loads):
        runs = [asdict(load) for load in loads if load.mode == mode]
        middle = {name: _median([run[name] for run in runs]) for name in runs[0] if name != "mode"}
        found.append(Load(mode=mode, **middle))
    return found


def _median(values: list[Any]) -> Any:
    if isinstance(values[0], tuple):
        return tuple(statistics.median(part) for part in zip(*values, strict=True))
    return statistics.median(values)


def _table(loads: Sequence[Load], title: str) -> Table:
    table = Table(title=title, caption="medians over the runs of a mode")
    names = ("mode", "tokens/s", "goodput/s", "TTFT p50/p90/p99 ms", "gap p50/p90/p99 ms")
    rest = ("total p50/p90/p99 s", "accepted", "engine busy", "completed", "rejected", "failed")
    for name in (*names, *rest):
        table.add_column(name, justify="left" if name == "mode" else "right")
    for load in medians(loads):
        table.add_row(
            load.mode,
            f"{load.tokens_per_s:.1f}",
            f"{load.goodput:.2f}",
            "/".join(f"{1000 * value:.0f}" for value in load.ttft_s),
            "/".join(f"{1000 * value:.0f}" for value in load.gap_s),
            "/".join(f"{value:.1f}" for value in load.total_s),
            f"{load.acceptance:.2f}",
            f"{load.engine_busy:.2f}",
            f"{load.completed:g}",
            f"{load.rejected:g}",
            f"{load.failed:g}",
        )
    return table
