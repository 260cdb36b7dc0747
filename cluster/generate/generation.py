"""`paceline generate`: from prompts to text, on a deployment started for this run."""

import json
import logging
import sys
import time
from collections.abc import Callable
from dataclasses import replace

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from cluster.deploy.deployment import Deployment
from cluster.deploy.deployment_plan import plan_deployment, with_monitors
from cluster.deploy.drafter_capacity import DrafterCapacity
from cluster.deploy.drafter_plan import NOTHING_DRAFTS, plan_drafter
from cluster.deploy.driver_session import Result, run_requests
from cluster.deploy.target_plan import PlannedModel, plan_target
from cluster.generate.prompt_requests import cache_tokens, make_submits, read_constraint
from cluster.network.ray_session import RaySession
from cluster.options.generate_options import GenerateOptions
from cluster.placement.cluster_nodes import cluster_nodes
from cluster.reports.run_report import request_stats, stats_json, stats_table, total_stats
from parallel.decoding.modes.mode_registry import policy_of
from parallel.decoding.types import DecodeMode
from parallel.messages import Submit
from runtime.models.tokenizer import IncrementalDecoder, Tokenizer

_NOTES = Console(stderr=True)


def run(options: GenerateOptions) -> int:
    """Generate for every prompt and print the results; return the exit code.

    Raises:
        ConfigError: something the user gave cannot be used; nothing was started.
        PeerError: a target rank died.
    """
    logging.getLogger("paceline").setLevel(logging.WARNING)
    target = plan_target(options.models)
    with cluster_nodes(options.models.ray_address) as nodes:
        return _generate(options, target, DrafterCapacity(nodes=nodes))


def _generate(options: GenerateOptions, target: PlannedModel, capacity: DrafterCapacity) -> int:
    drafting = policy_of(options.decode.mode).drafts
    drafter = plan_drafter(options.models, target, capacity) if drafting else NOTHING_DRAFTS
    decode = options.decode
    if decode.mode is DecodeMode.AUTO:
        decode = replace(decode, mode=drafter.best_mode)
    constraint = read_constraint(options.constraint)
    submits = make_submits(options.input, decode, target, constraint)
    spec = plan_deployment(
        options.models,
        target,
        drafter,
        cache_tokens=cache_tokens(submits, options.models.max_batch, target.max_positions),
        stops=bool(decode.stop) or constraint is not None,
    )
    if options.constraint.monitor is not None:
        spec = with_monitors(spec, (options.constraint.monitor,))
    drafter_tp = spec.num_drafter_ranks
    if drafter.why:
        why = f"drafter {drafter.name}, mode {decode.mode}: {drafter.why}"
        _NOTES.print(why, soft_wrap=True, markup=False, highlight=False)
    with (
        RaySession(options.models.ray_address, num_actors=spec.num_actors),
        Deployment(spec) as deployment,
    ):
        with _NOTES.status("starting") as status:
            deployment.start(lambda text: status.update(text))
        if deployment.locations:
            _NOTES.print(deployment.locations, soft_wrap=True, highlight=False)
        printer = _printer(options, target, submits, drafter_tp)
        link = deployment.connect()
        try:
            start_s = time.perf_counter()
            results = run_requests(
                deployment, link, submits, on_tokens=printer.on_tokens, on_end=printer.on_end
            )
            wall_s = time.perf_counter() - start_s
        finally:
            printer.close()
            link.close()
        deployment.check()
        for lost in deployment.lost_drafters:
            _NOTES.print(f"[yellow]drafter lost, continued without it:[/] {lost}")
    if not options.json:
        total = total_stats(results, wall_s, tp=spec.tp, drafter_tp=drafter_tp)
        Console().print(stats_table(total))
    for result in results:
        if result.error:
            _NOTES.print(f"[red]prompt {result.submit.request} failed:[/] {result.error}")
    return 1 if any(result.error for result in results) else 0


class _TextPrinter:
    """Streams text as it is committed; several prompts are printed one after the other."""

    def __init__(self, tokenizer: Tokenizer | None, num_requests: int) -> None:
        self._tokenizer = tokenizer
        self._num_requests = num_requests
        self._next = 0
        self._chunks: dict[int, list[tuple[int, ...]]] = {}
        self._ended: dict[int, Result] = {}
        self._decoder = self._new_decoder()

    def on_tokens(self, submit: Submit, token_ids: tuple[int, ...]) -> None:
        """Print what belongs to the prompt in turn, keep the rest."""
        if submit.stop:
            return  # the text ends before the stop string, known at the end
        self._chunks.setdefault(submit.request, []).append(token_ids)
        self._flush()

    def on_end(self, result: Result) -> None:
        """Print the next prompt once this one has ended."""
        self._ended[result.submit.request] = result
        self._flush()

    def close(self) -> None:
        """End the line."""
        sys.stdout.flush()

    def _flush(self) -> None:
        while self._next < self._num_requests:
            for token_ids in self._chunks.pop(self._next, []):
                self._write(self._decoder.push(token_ids) if self._decoder else f"{token_ids} ")
            if self._next not in self._ended:
                return
            self._end(self._ended.pop(self._next))

    def _end(self, result: Result) -> None:
        if result.submit.stop and self._tokenizer is not None:
            self._write(result_text(result, self._tokenizer))
        elif self._decoder is not None:
            self._write(self._decoder.finish())
        self._write("\n" if self._num_requests == 1 else "\n\n---\n")
        self._next += 1
        self._decoder = self._new_decoder()

    def _new_decoder(self) -> IncrementalDecoder | None:
        return IncrementalDecoder(self._tokenizer) if self._tokenizer is not None else None

    @staticmethod
    def _write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()


class _JsonPrinter:
    """Prints one JSON object a line, in input order, as soon as the order allows."""

    def __init__(
        self, tokenizer: Tokenizer | None, num_requests: int, to_json: Callable[[Result], object]
    ) -> None:
        self._tokenizer = tokenizer
        self._to_json = to_json
        self._next = 0
        self._ended: dict[int, Result] = {}
        self._progress = Progress(
            TextColumn("generating"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[tokens]} tokens"),
            TimeElapsedColumn(),
            console=_NOTES,
            transient=True,
        )
        self._task = self._progress.add_task("generate", total=num_requests, tokens=0)
        self._tokens = 0
        self._progress.start()

    def on_tokens(self, submit: Submit, token_ids: tuple[int, ...]) -> None:  # noqa: ARG002
        """Advance the progress display."""
        self._tokens += len(token_ids)
        self._progress.update(self._task, tokens=self._tokens)

    def on_end(self, result: Result) -> None:
        """Print every result whose turn has come."""
        self._ended[result.submit.request] = result
        self._progress.advance(self._task)
        while self._next in self._ended:
            print(json.dumps(self._to_json(self._ended.pop(self._next)), ensure_ascii=False))
            self._next += 1
        sys.stdout.flush()

    def close(self) -> None:
        """Take the progress display away."""
        self._progress.stop()


def result_text(result: Result, tokenizer: Tokenizer) -> str:
    """Return a result's text, which ends before its stop string."""
    text = tokenizer.decode(result.token_ids)
    if result.reason == "stop":
        ends = [text.find(stop) for stop in result.submit.stop if stop in text]
        return text[: min(ends)] if ends else text
    return text


def _printer(
    options: GenerateOptions, target: PlannedModel, submits: list[Submit], drafter_tp: int
) -> _TextPrinter | _JsonPrinter:
    tokenizer, tp = target.tokenizer, options.models.tp
    if not options.json:
        return _TextPrinter(tokenizer, len(submits))

    def to_json(result: Result) -> dict[str, object]:
        stats = request_stats(result, tp=tp, drafter_tp=drafter_tp)
        row: dict[str, object] = {
            "index": result.submit.request,
            "prompt_tokens": len(result.submit.prompt_ids),
            "token_ids": result.token_ids,
            "text": result_text(result, tokenizer) if tokenizer is not None else None,
            "finish_reason": result.reason,
            **({} if result.complete is None else {"complete": result.complete}),
            "stats": stats_json(stats),
        }
        return row | ({"error": result.error} if result.error else {})

    return _JsonPrinter(tokenizer, len(submits), to_json)
