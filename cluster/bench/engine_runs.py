"""Engines that run side by side on one machine: Paceline, llama.cpp and transformers."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cluster.bench.contenders import Contender, EngineKind
from cluster.bench.engine_rows import Logits
from cluster.bench.measured_runs import (
    Measure,
    measure_on,
    measure_transformers,
    measured_run,
    start_transformers,
)
from cluster.bench.rows import MeasuredRun
from cluster.deploy.deployment import Deployment
from cluster.deploy.deployment_spec import DeploymentSpec
from cluster.network.ray_errors import result_of
from parallel.decoding.modes.mode_registry import policy_of
from parallel.messages import Submit
from runtime.baselines.llama_cpp_process import LlamaCpp, LlamaCppSettings
from runtime.node.cpu_facts import resident_bytes

_LOADING_S = 600.0
_LOGITS_S = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningEngine:
    """A contender that has loaded its model."""

    contender: Contender
    measure: Measure
    pids: tuple[int, ...]
    """Its processes; contenders that decode with the same drafter share theirs."""
    logits_after: Logits | None = None
    """None for Paceline, whose outputs are the reference."""
    versions: dict[str, object] = field(default_factory=dict)

    @property
    def memory_bytes(self) -> int:
        """Resident memory of its processes."""
        return resident_bytes(self.pids)


@dataclass(frozen=True, slots=True, kw_only=True)
class EnginePlan:
    """What all engines of a run need, checked before anything starts."""

    contenders: tuple[Contender, ...]
    specs: dict[str | None, DeploymentSpec]
    """Paceline's deployments by the name of their drafter; without drafter at `ALONE`."""
    llama: LlamaCppSettings | None
    """None where no contender is llama.cpp."""
    llama_python: Path

    @property
    def num_actors(self) -> int:
        """Ray actors of all engines."""
        kinds = [contender.kind for contender in self.contenders]
        num_ranks = sum(spec.num_actors for spec in self.specs.values())
        return num_ranks + kinds.count(EngineKind.TRANSFORMERS)


ALONE = ""
"""In place of a drafter's name: the deployment that decodes without one."""


def deployment_key(contender: Contender) -> str | None:
    """Return which deployment of a plan a contender of Paceline runs on."""
    return contender.drafter if policy_of(contender.mode).drafts else ALONE


def start_engines(
    plan: EnginePlan, stack: ExitStack, note: Callable[[str], None]
) -> list[RunningEngine]:
    """Start all engines, in the order of the contenders; they end with the stack.

    Raises:
        ConfigError: llama.cpp cannot be run, or cannot read the model.
        PeerError: a process ended while it started.
    """
    deployments: dict[str | None, Deployment] = {}
    for key, spec in plan.specs.items():
        deployments[key] = stack.enter_context(Deployment(spec))
        deployments[key].start(note)
    settings = next(iter(plan.specs.values())).target
    engines = []
    for contender in plan.contenders:
        match contender.kind:
            case EngineKind.PACELINE:
                engine = _paceline(contender, deployments[deployment_key(contender)], stack)
            case EngineKind.LLAMA_CPP:
                note("llama.cpp loads its model")
                engine = _llama_cpp(contender, plan, stack)
            case EngineKind.TRANSFORMERS:
                note("transformers loads its model")
                engine = _transformers(contender, start_transformers(settings))
        engines.append(engine)
    return engines


def _paceline(contender: Contender, deployment: Deployment, stack: ExitStack) -> RunningEngine:
    link = deployment.connect()
    stack.callback(link.close)
    return RunningEngine(
        contender=contender,
        measure=measure_on(deployment, link, contender.mode),
        pids=(*deployment.pids("target"), *deployment.pids("drafter")),
    )


def _llama_cpp(contender: Contender, plan: EnginePlan, stack: ExitStack) -> RunningEngine:
    assert plan.llama is not None
    settings = replace(plan.llama, lookup=contender.num_lookup)
    llama = stack.enter_context(LlamaCpp(plan.llama_python, settings))
    versions = llama.load()

    def measure(submits: list[Submit], max_tokens: int) -> MeasuredRun:
        return measured_run(llama.generate([s.prompt_ids for s in submits], max_tokens))

    return RunningEngine(
        contender=contender,
        measure=measure,
        pids=(llama.pid,),
        logits_after=llama.logits_after,
        versions=versions,
    )


def _transformers(contender: Contender, actor: Any) -> RunningEngine:
    pid: int = result_of(actor.pid.remote(), "transformers", timeout_s=_LOADING_S)

    def logits_after(prefix: tuple[int, ...], token_ids: tuple[int, ...]) -> Sequence[float]:
        called = actor.logits_after.remote(prefix, token_ids)
        found: tuple[float, ...] = result_of(called, "transformers", timeout_s=_LOGITS_S)
        return found

    return RunningEngine(
        contender=contender,
        measure=measure_transformers(actor, contender.num_lookup),
        pids=(pid,),
        logits_after=logits_after,
    )
