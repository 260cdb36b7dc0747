"""`paceline bench serve`: load from many clients on a running server.

With a rate the load is an open loop: requests arrive at random times whether or not earlier ones
have finished, so that coordinated omission does not hide a slow server. With rate 0 the load is a
closed loop: each client sends its next request when it has the answer to the last one, which
measures the highest throughput.
"""

import asyncio
import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from cluster.bench.http_load import HttpLoadClient
from cluster.bench.load_figures import Load, Outcome, load_table, summary
from cluster.charts.serving_chart import plot_serving
from cluster.network.server_connection import connected, credentials_of
from cluster.options.bench_options import BenchServeOptions
from cluster.reports.run_report import output_console
from runtime.checking.prompt_files import PromptRecord, read_prompts
from runtime.client import AsyncClient, Prompt, ServiceError
from runtime.errors import PacelineError

_SETTLE_S = 1.5
LoadClient = AsyncClient | HttpLoadClient


def run(options: BenchServeOptions) -> int:
    """Measure a server; return the exit code: 1 if no request succeeded.

    Raises:
        ConfigError: an option or the file of prompts cannot be used.
        ServiceError: the server was unreachable.
    """
    _check(options)
    records = read_prompts(options.prompts, limit=options.num_prompts, extra_keys=())
    loads = asyncio.run(_measure(options, records))
    if options.plot is not None:
        plot_serving([asdict(load) for load in loads], options.plot, title=_title(options))
    if options.json:
        for load in loads:
            print(json.dumps(asdict(load)))
    else:
        output_console().print(load_table(loads, _title(options)))
    return 0 if any(load.completed for load in loads) else 1


async def _measure(options: BenchServeOptions, records: Sequence[PromptRecord]) -> list[Load]:
    num = options.requests or len(records)
    modes = options.modes or ("",)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    loads = []
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True)) as progress:
        task = progress.add_task("requests", total=num * len(modes) * options.repeats)
        for repeat in range(options.repeats):
            for mode in modes:  # interleaved, so that a slow spell affects all modes
                progress.update(task, description=mode or "requests")
                bench = _Run(options, records, mode, lambda: progress.advance(task))
                before_s = await asyncio.to_thread(_engine_s, options)
                outcomes, wall_s = await bench.run(num, seed=options.seed + repeat)
                engine_s = await asyncio.to_thread(_engine_s, options) - before_s
                busy = round(engine_s / wall_s, 3)
                loads.append(
                    summary(
                        outcomes,
                        wall_s,
                        mode=mode,
                        repeat=repeat,
                        busy=busy,
                        max_ttft_s=options.ttft_s,
                        max_gap_s=options.gap_s,
                    )
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
        clients = [_client(options) for _ in range(options.clients)]
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
        self, clients: list[LoadClient], num: int, draw: random.Random
    ) -> list[Outcome]:
        due_s, tasks = 0.0, []
        for index in range(num):
            due_s += draw.expovariate(self._options.rate)
            await asyncio.sleep(max(0.0, self._start_s + due_s - time.monotonic()))
            client = clients[index % len(clients)]
            tasks.append(asyncio.create_task(self._send(client, index, due_s)))
        return list(await asyncio.gather(*tasks))

    async def _closed_loop(self, clients: list[LoadClient], num: int) -> list[Outcome]:
        numbers = iter(range(num))
        outcomes: list[Outcome] = []

        async def work(client: LoadClient) -> None:
            for index in numbers:
                due_s = time.monotonic() - self._start_s
                outcomes.append(await self._send(client, index, due_s))

        await asyncio.gather(*(work(client) for client in clients))
        return outcomes

    async def _send(self, client: LoadClient, index: int, due_s: float) -> Outcome:
        options, record = self._options, self._records[index % len(self._records)]
        prompt: Prompt = record.text or ""
        if record.messages is not None:
            prompt = record.messages
        elif options.chat:
            prompt = [{"role": "user", "content": record.text or ""}]
        outcome = Outcome(due_s)
        last_s = due_s
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


def _check(options: BenchServeOptions) -> None:
    """Raise ConfigError here for what each client would reject."""
    credentials = credentials_of(options.connect)
    if options.http is not None:
        HttpLoadClient(options.http, credentials)


def _client(options: BenchServeOptions) -> LoadClient:
    credentials = credentials_of(options.connect)
    if options.http is not None:
        return HttpLoadClient(options.http, credentials)
    return AsyncClient(options.connect.server, credentials=credentials)


def _engine_s(options: BenchServeOptions) -> float:
    """Return how many seconds the server's engine has computed so far."""
    time.sleep(_SETTLE_S)  # the server reads its engine's status once a second
    with connected(options.connect) as client:
        engine = client.status().engine
    return engine.target_s + engine.draft_s - engine.hidden_s


def _title(options: BenchServeOptions) -> str:
    load = f"{options.rate:g} requests/s" if options.rate else "as fast as answered"
    return f"{options.http or options.connect.server}: {options.clients} clients, {load}"
