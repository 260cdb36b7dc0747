"""`paceline bench engines`: Paceline beside llama.cpp and transformers, interleaved in one run."""

import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import partial
from itertools import chain, cycle, islice
from pathlib import Path

from rich.console import Console

from cluster.bench.contenders import Contender, EngineKind, parse_contenders
from cluster.bench.engine_rows import (
    PREFILL,
    EngineResult,
    engine_rows,
    engine_table,
    first_differences,
)
from cluster.bench.engine_runs import EnginePlan, RunningEngine, deployment_key, start_engines
from cluster.bench.prompt_groups import prompt_groups
from cluster.bench.rows import Case
from cluster.bench.turns import take_turns
from cluster.deploy.deployment_plan import plan_deployment
from cluster.deploy.deployment_spec import DeploymentSpec
from cluster.deploy.drafter_capacity import DrafterCapacity
from cluster.deploy.drafter_plan import NOTHING_DRAFTS, plan_drafter
from cluster.deploy.target_plan import PlannedModel, plan_target
from cluster.generate.prompt_requests import cache_tokens, make_submits
from cluster.network.ray_session import RaySession
from cluster.options.bench_options import BenchEnginesOptions
from cluster.options.generate_options import DecodeOptions
from cluster.placement.cluster_nodes import cluster_nodes
from cluster.reports.environment import environment
from cluster.reports.json_report import report_json
from cluster.reports.resume_file import ResumeFile
from cluster.reports.run_report import output_console
from parallel.decoding.modes.mode_registry import policy_of
from parallel.decoding.types import DecodeMode
from parallel.messages import Submit
from runtime.baselines.llama_cpp_process import LlamaCppSettings
from runtime.errors import ConfigError
from runtime.models.checkpoint import gguf_file
from runtime.node.cores import usable_cores
from runtime.node.cpu_facts import read_cpu_facts

_NOTES = Console(stderr=True)
_SPARE_POSITIONS = 64
"""More than any draft is long: llama.cpp's context also holds drafts."""
_GGUF_START = b"GGUF"
_DECODE = DecodeOptions(mode=DecodeMode.AUTOREGRESSIVE, ignore_eos=True)


def run(options: BenchEnginesOptions) -> int:
    """Measure every contender and print the comparison; return the exit code.

    Raises:
        ConfigError: an option cannot be used, or an engine is not there.
        PeerError: an engine died.
    """
    contenders = parse_contenders(options.contenders)
    models = replace(options.models, threads=options.models.threads or usable_cores())
    options = replace(options, models=models)
    target = plan_target(models)
    decode = replace(_DECODE, max_tokens=options.max_tokens)
    submits = make_submits(options.input, decode, target)
    resume = ResumeFile(options.keep, _settings(options), verb="bench engines")
    long = _long_request(submits, min(options.prefill_tokens, target.max_positions - 1))
    plan = _plan(options, contenders, target, [*submits, *long])
    groups = prompt_groups(options.input, submits, by_category=options.by_category)
    with RaySession(None, num_actors=plan.num_actors), ExitStack() as stack:
        with _NOTES.status("starting") as status:
            engines = start_engines(plan, stack, status.update)
        cases = [Case(name=e.contender.name, tp=1, measure=e.measure) for e in engines]
        measure = partial(take_turns, cases, repeats=options.repeats, batch=1, resume=resume)
        measure(groups, max_tokens=options.max_tokens)
        if long:
            measure({PREFILL: long}, max_tokens=1)
        with _NOTES.status("comparing tokens") as status:
            results = _results(engines, cases, groups, status.update)
        versions = {e.contender.name: e.versions for e in engines if e.versions}
    _report(options, results, groups, versions, len(long[0].prompt_ids) if long else 0)
    return 0


def _plan(
    options: BenchEnginesOptions,
    contenders: tuple[Contender, ...],
    target: PlannedModel,
    submits: list[Submit],
) -> EnginePlan:
    chosen = []
    specs: dict[str | None, DeploymentSpec] = {}
    tokens = cache_tokens(submits, 1, target.max_positions)
    with cluster_nodes(None) as nodes:
        capacity = DrafterCapacity(nodes=nodes)
        for contender in contenders:
            if contender.kind is not EngineKind.PACELINE:
                chosen.append(contender)
                continue
            models = replace(options.models, drafter=contender.drafter)
            drafting = policy_of(contender.mode).drafts
            drafter = plan_drafter(models, target, capacity) if drafting else NOTHING_DRAFTS
            mode = drafter.best_mode if contender.mode is DecodeMode.AUTO else contender.mode
            chosen.append(replace(contender, mode=mode))
            if deployment_key(contender) not in specs:
                specs[deployment_key(contender)] = plan_deployment(
                    models, target, drafter, cache_tokens=tokens, stops=False
                )
    return EnginePlan(
        contenders=tuple(chosen),
        specs=specs,
        llama=_llama_settings(options, contenders, target, submits),
        llama_python=options.llama_python,
    )


def _llama_settings(
    options: BenchEnginesOptions,
    contenders: tuple[Contender, ...],
    target: PlannedModel,
    submits: list[Submit],
) -> LlamaCppSettings | None:
    if all(contender.kind is not EngineKind.LLAMA_CPP for contender in contenders):
        return None
    if not options.llama_python.is_file():
        raise ConfigError(
            f"`llama_python` {options.llama_python} does not exist: run make llama-cpp, or leave "
            "llama.cpp out of `contenders`"
        )
    if not os.access(options.llama_python, os.X_OK):
        raise ConfigError(
            f"`llama_python` {options.llama_python} is not a program: name the Python of the "
            "environment that make llama-cpp creates"
        )
    if options.gguf is not None:
        _check_gguf(options.gguf)
    file = options.gguf or gguf_file(target.name)
    if file is None:
        raise ConfigError(
            f"`target` {target.name} is not a GGUF file, which llama.cpp reads: name the same "
            "model as `gguf`, or leave llama.cpp out of `contenders`"
        )
    assert options.models.threads is not None
    longest = max(len(submit.prompt_ids) + submit.max_tokens for submit in submits)
    return LlamaCppSettings(
        model=str(file),
        threads=options.models.threads,
        context=min(longest, target.max_positions) + _SPARE_POSITIONS,
    )


def _long_request(submits: list[Submit], num_tokens: int) -> list[Submit]:
    """Return a request of this many tokens, those of all prompts in turn; none for 0 tokens."""
    if num_tokens <= 0:
        return []
    token_ids = cycle(chain.from_iterable(submit.prompt_ids for submit in submits))
    long = replace(submits[0], prompt_ids=tuple(islice(token_ids, num_tokens)), max_tokens=1)
    return [long]


def _results(
    engines: list[RunningEngine],
    cases: list[Case],
    groups: dict[str, list[Submit]],
    tell: Callable[[str], None],
) -> list[EngineResult]:
    """Compare each engine's tokens with those of the first contender of Paceline."""
    of_reference = next(
        case
        for engine, case in zip(engines, cases, strict=True)
        if engine.contender.kind is EngineKind.PACELINE
    )
    submits = list(chain.from_iterable(groups.values()))
    reference = of_reference.over(list(groups))[0].token_ids
    results = []
    for engine, case in zip(engines, cases, strict=True):
        tell(f"comparing the tokens of {engine.contender.name}")
        found = case.over(list(groups))[0].token_ids
        results.append(
            EngineResult(
                contender=engine.contender,
                case=case,
                memory_bytes=engine.memory_bytes,
                differences=first_differences(submits, found, reference, engine.logits_after),
            )
        )
    return results


def _report(
    options: BenchEnginesOptions,
    results: list[EngineResult],
    groups: dict[str, list[Submit]],
    versions: dict[str, dict[str, object]],
    prefill_tokens: int,
) -> None:
    def rows_of(names: list[str]) -> list[dict[str, object]]:
        return engine_rows(results, names, prefill_tokens=prefill_tokens)

    rows, here = rows_of(list(groups)), environment()
    by_category = {name: rows_of([name]) for name in groups if len(groups) > 1}
    found: dict[str, object] = {
        "config": _settings(options) | {"prefill_tokens": prefill_tokens},
        "environment": here,
        "engines": versions,
        "rows": rows,
        "differences": {
            result.contender.name: [asdict(difference) for difference in result.differences]
            for result in results
        },
    }
    found |= {"by_category": by_category} if by_category else {}
    if report_json(found, options.out, prints=options.json):
        return
    console = output_console()
    console.print(engine_table(rows, f"median of {options.repeats} interleaved runs"))
    for name, some in by_category.items():
        console.print(engine_table(some, name))
    cpu = read_cpu_facts()
    console.print(
        f"{cpu.model} ({', '.join(cpu.instructions)}), {options.models.threads} threads; Paceline "
        f"at commit {here['commit']}"
    )
    for name, known in versions.items():
        console.print(f"{name}: " + ", ".join(f"{k} {v}" for k, v in known.items()))


def _settings(options: BenchEnginesOptions) -> dict[str, object]:
    return {
        "target": options.models.target,
        "contenders": list(options.contenders),
        "max_tokens": options.max_tokens,
        "repeats": options.repeats,
        "weights": options.models.weights,
        "threads": options.models.threads,
    }


def _check_gguf(path: Path) -> None:
    """Raise ConfigError unless a file begins as GGUF files do."""
    try:
        with path.open("rb") as file:
            start = file.read(len(_GGUF_START))
    except OSError as error:
        raise ConfigError(f"`gguf` {path} cannot be read: {error.strerror}") from error
    if start != _GGUF_START:
        raise ConfigError(f"`gguf` {path} is not a GGUF file")
