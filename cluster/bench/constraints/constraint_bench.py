"""`paceline bench constraints`: JSON tasks with and without constraints, interleaved in one run."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

from rich.console import Console

from cluster.bench.constraints.constraint_rows import (
    GROUP,
    ConstraintCases,
    constraint_rows,
    cost_row,
    costs_table,
    rows_table,
)
from cluster.bench.measured_runs import Measure, measure_on
from cluster.bench.rows import Case, MeasuredRun
from cluster.bench.turns import take_turns
from cluster.deploy.deployment import Deployment
from cluster.deploy.deployment_plan import plan_deployment
from cluster.deploy.drafter_capacity import DrafterCapacity
from cluster.deploy.drafter_plan import PlannedDrafter, plan_drafter
from cluster.deploy.target_plan import PlannedModel, plan_target
from cluster.generate.prompt_requests import cache_tokens
from cluster.network.ray_session import RaySession
from cluster.options.bench_options import BenchConstraintsOptions
from cluster.placement.cluster_nodes import cluster_nodes
from cluster.reports.environment import environment
from cluster.reports.json_report import report_json
from cluster.reports.resume_file import ResumeFile
from cluster.reports.run_report import output_console
from parallel.decoding.types import DecodeMode, SamplingParams, VerifierKind
from parallel.messages import Submit
from runtime.checking.prompt_value import check_prompt_length
from runtime.constraints.grammar_text import grammar_text
from runtime.constraints.json_tasks import JSON_TASKS, JsonTask, read_json_tasks
from runtime.constraints.mask_costs import MaskCosts, replayed
from runtime.constraints.model_tokens import model_tokens
from runtime.constraints.opened_tokens import OpenedTokens
from runtime.errors import ConfigError

_NOTES = Console(stderr=True)


def run(options: BenchConstraintsOptions) -> int:
    """Measure every case and print the comparison; return the exit code.

    Raises:
        ConfigError: an option, a task or the model cannot be used; nothing was started.
        PeerError: a target rank died.
    """
    tasks = read_json_tasks(options.tasks or JSON_TASKS, limit=options.num_tasks)
    target = plan_target(options.models)
    if target.tokenizer is None:
        raise ConfigError("`virtual` has no tokenizer, which constraints need: name a `target`")
    submits = task_submits(options, tasks, target)
    resume = ResumeFile(options.keep, _settings(options), verb="bench constraints")
    with cluster_nodes(options.models.ray_address) as nodes:
        drafter = plan_drafter(options.models, target, DrafterCapacity(nodes=nodes))
        cases = _measured(options, target, drafter, submits, resume)
    costs = mask_costs(target, submits, cases.constrained.runs[GROUP][0])
    _report(options, drafter, constraint_rows(cases), cost_row(costs))
    return 0


def task_submits(
    options: BenchConstraintsOptions, tasks: Sequence[JsonTask], target: PlannedModel
) -> list[Submit]:
    """Return a request for each task.

    Raises:
        ConfigError: a prompt is too long, or the model has no chat template.
    """
    tokenizer = target.tokenizer
    assert tokenizer is not None
    found = []
    for number, task in enumerate(tasks):
        ids = (
            tokenizer.encode_chat([{"role": "user", "content": task.prompt}])
            if options.chat
            else tokenizer.encode(task.prompt)
        )
        check_prompt_length(
            len(ids),
            prompt=f"the prompt of task {number + 1}",
            model=target.name,
            max_positions=target.max_positions,
        )
        sampling = SamplingParams(
            temperature=options.temperature, seed=options.seed, constraint=task.constraint
        )
        found.append(
            Submit(
                request=number,
                prompt_ids=tuple(ids),
                sampling=sampling,
                mode=DecodeMode.AUTOREGRESSIVE,
                verifier=VerifierKind.MATCH,
                max_tokens=options.max_tokens,
            )
        )
    return found


def mask_costs(target: PlannedModel, submits: Sequence[Submit], run: MeasuredRun) -> MaskCosts:
    """Compile the constraints of requests again and follow their outputs, in this thread."""
    tokenizer = target.tokenizer
    assert tokenizer is not None
    end_ids = frozenset(tokenizer.eos_ids)
    opened = OpenedTokens(model_tokens(tokenizer, vocab_size=target.vocab_size, end_ids=end_ids))
    outputs: dict[str, list[tuple[int, ...]]] = {}
    for submit, output in zip(submits, run.token_ids, strict=True):
        assert submit.sampling.constraint is not None
        outputs.setdefault(grammar_text(submit.sampling.constraint), []).append(output)
    total = MaskCosts()
    for grammar, some in outputs.items():
        start = partial(opened.start, grammar)
        total += replayed(start, some, end_ids=end_ids, now_s=time.thread_time)
    return total


def _measured(
    options: BenchConstraintsOptions,
    target: PlannedModel,
    drafter: PlannedDrafter,
    submits: list[Submit],
    resume: ResumeFile,
) -> ConstraintCases:
    """Start the models, and measure the cases in turns."""
    tokens = cache_tokens(submits, options.models.max_batch, target.max_positions)
    spec = plan_deployment(options.models, target, drafter, cache_tokens=tokens, stops=True)
    with (
        RaySession(options.models.ray_address, num_actors=spec.num_actors),
        ExitStack() as stack,
    ):
        with _NOTES.status("starting") as status:
            deployment = stack.enter_context(Deployment(spec))
            deployment.start(status.update)
        link = deployment.connect()
        stack.callback(link.close)
        plain = measure_on(deployment, link, DecodeMode.AUTOREGRESSIVE)
        best = measure_on(deployment, link, drafter.best_mode)
        found = ConstraintCases(
            plain=Case(name="plain", tp=spec.tp, measure=_unconstrained(plain)),
            constrained=Case(name="constrained", tp=spec.tp, measure=plain),
            automatic=Case(name="constrained, automatic", tp=spec.tp, measure=best),
        )
        take_turns(
            found.all,
            {GROUP: submits},
            repeats=options.repeats,
            batch=options.models.max_batch,
            max_tokens=options.max_tokens,
            resume=resume,
        )
    return found


def _unconstrained(measure: Measure) -> Measure:
    def measured(submits: list[Submit], max_tokens: int) -> MeasuredRun:
        free = [replace(s, sampling=replace(s.sampling, constraint=None)) for s in submits]
        return measure(free, max_tokens)

    return measured


def _settings(options: BenchConstraintsOptions) -> dict[str, object]:
    models = options.models
    return {
        "target": models.target,
        "drafter": models.drafter,
        "tasks": str(options.tasks) if options.tasks else "json_tasks",
        "chat": options.chat,
        "max_tokens": options.max_tokens,
        "temperature": options.temperature,
        "seed": options.seed,
        "batch": models.max_batch,
        "repeats": options.repeats,
        "weights": models.weights,
        "threads": models.threads,
        "tp": models.tp,
    }


def _report(
    options: BenchConstraintsOptions,
    drafter: PlannedDrafter,
    rows: list[dict[str, object]],
    costs: dict[str, object],
) -> None:
    config = _settings(options) | {"drafter": drafter.name, "mode": drafter.best_mode}
    found = {"config": config, "environment": environment(), "rows": rows, "costs": costs}
    if report_json(found, options.out, prints=options.json):
        return
    console = output_console()
    title = f"{costs['outputs']} tasks, median of {options.repeats} interleaved runs"
    console.print(rows_table(rows, title))
    console.print(costs_table(costs))
    console.print(f"{costs['complete']} of {costs['outputs']} constrained outputs are complete")
