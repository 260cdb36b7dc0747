"""`paceline serve`: run a deployment behind a gRPC server until a signal or a drain stops it."""

import asyncio
import contextlib
import os
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace

from prometheus_client import start_http_server
from rich.console import Console
from rich.markup import escape

from cluster.deploy.deployment_plan import plan_deployment, with_monitors
from cluster.deploy.deployment_spec import DeploymentSpec
from cluster.deploy.drafter_capacity import DrafterCapacity
from cluster.deploy.drafter_plan import NOTHING_DRAFTS, PlannedDrafter, plan_drafter
from cluster.deploy.fleet import Fleet
from cluster.deploy.rank_liveness import LivenessLimits
from cluster.deploy.supervisor import Supervision
from cluster.deploy.target_plan import PlannedModel, plan_target
from cluster.network.ray_session import RaySession
from cluster.options.serve_options import ServeOptions
from cluster.placement.cluster_nodes import cluster_nodes
from cluster.placement.placement import Node
from cluster.serve.adapter_fleet import AdapterFleet, parse_adapters
from cluster.serve.adapter_watch import AdapterWatch, parse_watches
from cluster.serve.disk_updates import DiskUpdates
from cluster.serve.served_drafter import ServedDrafter
from cluster.train.stopping import StopEvents
from parallel.decoding.modes.mode_registry import policy_of
from parallel.decoding.types import DecodeMode
from runtime.channels.addresses import parse_address
from runtime.channels.tokens import read_tokens
from runtime.distillation.traffic import TrafficLog
from runtime.errors import ConfigError, PacelineError
from runtime.gateway.gateway import Gateway
from runtime.gateway.journal_store import JournalStore
from runtime.gateway.limits import GatewayLimits
from runtime.gateway.metrics import ServiceMetrics
from runtime.hosts.drafter_spec import with_model
from runtime.hosts.rank_settings import ModelSettings
from runtime.http.http_server import HttpServer, HttpSettings
from runtime.node.keeper import end_with_keeper
from runtime.requests.served_model import ServedModel
from runtime.requests.tracing import Tracing
from runtime.restarts import RestartLimits
from runtime.service.server import ServerSettings, ServiceServer
from runtime.service.service_logs import start_logging
from runtime.version import package_version


class _Notes(Console):
    """Prints notes for people; a closed or full output does not stop the server."""

    def note(self, text: str, *, warns: bool = False) -> None:
        """Print a line without markup, or nothing on a full disk."""
        head = "[yellow]warning:[/] " if warns else ""
        with contextlib.suppress(OSError):
            self.print(head + escape(text), soft_wrap=True)

    def on_broken_pipe(self) -> None:
        """Continue."""


_NOTES = _Notes(stderr=True, highlight=False)
_CHECK_S = 1.0
_CACHE_TOKENS = 32768


def run(options: ServeOptions) -> int:
    """Serve until SIGTERM, SIGINT or SIGHUP; return the exit code.

    Raises:
        ConfigError: an option cannot be used.
        PacelineError: the target failed.
    """
    end_with_keeper()
    settings = ServerSettings(
        address=options.listen,
        tokens=read_tokens(options.token_file, "`token_file`"),
        admin_tokens=read_tokens(options.admin_token_file, "`admin_token_file`"),
        certificate=options.tls_cert,
        private_key=options.tls_key,
        client_ca=options.client_ca,
        reflection=options.reflection,
    )
    start_logging(options.log_format)
    target = plan_target(options.models)
    if target.tokenizer is None:
        raise ConfigError("virtual devices have no text to serve: give a model with `target`")
    with cluster_nodes(options.models.ray_address) as nodes:
        return _run(options, settings, target, nodes)


def _run(
    options: ServeOptions, settings: ServerSettings, target: PlannedModel, nodes: Sequence[Node]
) -> int:
    bounds = options.drafter_bounds
    capacity = DrafterCapacity(
        nodes=nodes, replicas=options.replicas, max_drafters=options.max_drafters
    )
    drafts = policy_of(options.mode).drafts
    drafter = plan_drafter(options.models, target, capacity) if drafts else NOTHING_DRAFTS
    model = _served_model(options, target, drafter)
    named = parse_adapters(options.adapter)
    watched = parse_watches(options.watch, model=target.name, taken=dict(named))
    tokens = options.models.cache_tokens or max(_CACHE_TOKENS, target.max_positions)
    spec = plan_deployment(options.models, target, drafter, cache_tokens=tokens, stops=True)
    spec = with_monitors(_supervised(spec, options), options.monitors)
    store = _open_journal(options, model)
    with ExitStack() as stack:
        max_actors = spec.num_actors + (bounds[1] - spec.num_drafters) * max(
            spec.drafter.num_ranks, 1
        )
        session = RaySession(options.models.ray_address, num_actors=max_actors * options.replicas)
        stack.enter_context(session)
        fleet = stack.enter_context(Fleet(spec, options.replicas))
        with _NOTES.status("starting") as status:
            fleet.start(lambda text: status.update(text))
        if fleet.locations:
            _NOTES.print(fleet.locations, soft_wrap=True)
        drafting = ServedDrafter(
            fleet,
            options.models,
            target,
            first=model.drafter,
            cache_tokens=tokens,
            bounds=bounds,
        )
        adapting = AdapterFleet(fleet, target, model.adapters)
        for name, directory in named:
            adapting.add(name, directory)
        watches = [AdapterWatch(*one, adapting, model.adapters) for one in watched]
        updates = DiskUpdates(drafting, watches, _NOTES.note)
        updates.begin()
        return asyncio.run(
            _serve(fleet, drafting, adapting, updates, model, settings, options, store)
        )


async def _serve(
    fleet: Fleet,
    drafting: ServedDrafter,
    adapting: AdapterFleet,
    updates: DiskUpdates,
    model: ServedModel,
    settings: ServerSettings,
    options: ServeOptions,
    store: JournalStore | None,
) -> int:
    traffic = TrafficLog(options.traffic) if options.traffic is not None else None
    limits = GatewayLimits(
        max_open=options.max_open, max_open_per_client=options.max_open_per_client
    )
    gateway = Gateway(
        fleet.connect(),
        limits,
        recovers=True,
        store=store,
        traffic=traffic,
        metrics=ServiceMetrics(model.name),
    )
    stopping = StopEvents(gateway.cut)
    tracing = Tracing.start(os.environ)
    server = ServiceServer(gateway, model, settings, drafting, tracing, adapting)
    gateway.metrics.watch(lambda: gateway.replicas)
    await server.start()
    front = await _start_http(server, settings, options, tracing)
    fleet.supervise(gateway, _supervision(options))
    page = _serve_metrics(gateway, options.metrics)
    ready = f"ready: {model.name} on {server.address}, drafter {model.drafter or 'none'}"
    pages = {"HTTP": front.url if front is not None else "", "metrics": page}
    _NOTES.note(ready + "".join(f", {name} on {url}" for name, url in pages.items() if url))
    if front is not None:
        _NOTES.note(f"open {front.url}/ in a browser to try it")
    failure: PacelineError | None = None
    while failure is None and not (stopping.asked.is_set() or gateway.is_draining):
        failure = fleet.failure
        if failure is None:
            updates.look()
        if unused := model.adapters.unused(gateway.adapters_in_use, time.monotonic()):
            await asyncio.to_thread(adapting.drop, unused)
        await _wait(stopping.asked, _CHECK_S)
    if failure is None:
        _NOTES.note(
            f"draining {gateway.num_open} requests, at most {options.drain_s:.0f} s; "
            "another signal cuts them"
        )
    finished = await server.stop(options.drain_s if failure is None else 0.0)
    if front is not None:
        await front.stop()
    if failure is not None:
        raise failure
    if not finished:
        _NOTES.note("some requests were cut: clients can resume them elsewhere", warns=True)
    return 0


async def _start_http(
    server: ServiceServer, settings: ServerSettings, options: ServeOptions, tracing: Tracing | None
) -> HttpServer | None:
    """Serve HTTP beside gRPC, with its tokens and certificates; None if it is off."""
    if options.http is None:
        return None
    front = HttpServer(
        server.admission,
        HttpSettings(
            address=options.http,
            tokens=settings.accepted_tokens,
            certificate=settings.certificate,
            private_key=settings.private_key,
            client_ca=settings.client_ca,
            origins=options.http_origins,
            max_body_bytes=settings.max_message_bytes,
        ),
        tracing,
    )
    await front.start()
    return front


def _open_journal(options: ServeOptions, model: ServedModel) -> JournalStore | None:
    if options.journal is None:
        return None
    store = JournalStore.open(options.journal, f"{model.name} in {options.models.weights}")
    if store.restored:
        _NOTES.note(f"continuing with {len(store.restored)} requests of {options.journal}")
    return store


def _supervised(spec: DeploymentSpec, options: ServeOptions) -> DeploymentSpec:
    """Return the plan of one replica with the options for losses and threads."""

    def shared(model: ModelSettings) -> ModelSettings:
        threads = model.num_threads
        if options.models.threads is None:  # replicas share the ranks' threads
            threads = max(1, threads // options.replicas)
        return replace(model, step_limit_s=options.step_limit_s, num_threads=threads)

    return replace(
        spec,
        target=shared(spec.target),
        drafter=with_model(spec.drafter, shared),
        drafter_restarts=options.restarts,
    )


def _supervision(options: ServeOptions) -> Supervision:
    return Supervision(
        restarts=RestartLimits(most=options.restarts),
        liveness=LivenessLimits(step_s=options.step_limit_s, answer_s=options.step_limit_s),
    )


def _serve_metrics(gateway: Gateway, address: str | None) -> str:
    """Serve a page for Prometheus; return its address, "" without one."""
    if address is None:
        return ""
    host, port = parse_address(address, "`metrics`")
    try:
        page, _ = start_http_server(port, host.strip("[]"), registry=gateway.metrics.registry)
    except OSError as error:
        raise ConfigError(f"`metrics` {address} cannot be used: {error}") from error
    return f"http://{host}:{page.server_port}/metrics"


async def _wait(event: asyncio.Event, timeout_s: float) -> None:
    try:
        await asyncio.wait_for(event.wait(), timeout_s)
    except TimeoutError:
        return


def _served_model(
    options: ServeOptions, target: PlannedModel, drafter: PlannedDrafter
) -> ServedModel:
    assert target.tokenizer is not None
    mode = options.mode
    if mode is DecodeMode.AUTO:
        mode = drafter.best_mode
    return ServedModel(
        name=target.name,
        tokenizer=target.tokenizer,
        vocab_size=target.vocab_size,
        max_positions=target.max_positions,
        tp=options.models.tp,
        drafter=drafter.name,
        default_mode=mode,
        default_max_tokens=options.max_tokens,
        version=package_version(),
    )
