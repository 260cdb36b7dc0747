"""`paceline service`: servers that a Ray cluster keeps running, each by a named, detached actor."""

import json
import os
import time
from dataclasses import asdict
from typing import Any

import ray
from ray.util import list_named_actors
from rich.console import Console
from rich.table import Table

from actors.keeper_actor import KeeperActor
from cluster.jobs.submit import ROOT
from cluster.network.ray_errors import result_of
from cluster.network.ray_session import RaySession, beside_driver
from cluster.options.cluster_options import (
    ServiceListOptions,
    ServiceLogsOptions,
    ServiceStartOptions,
    ServiceStopOptions,
)
from cluster.reports.run_report import output_console
from runtime.errors import ConfigError, PacelineError, PeerTimeout
from runtime.node.keeper import KeptState, KeptStatus
from runtime.restarts import RestartLimits

_NOTES = Console(stderr=True, highlight=False)
_NAMESPACE = "paceline"
_PREFIX = "service:"
_ANSWER_S = 20.0
_START_S = 600.0
_STOP_S = 60.0
"""Longer than the default of `drain_s`; then the server is killed."""
_POLL_S = 0.5
_SHOWN = 12


def start(options: ServiceStartOptions) -> int:
    """Start a service and wait until it is ready; return the exit code.

    Raises:
        ConfigError: the name or the server's options cannot be used, or there is no cluster.
        PeerTimeout: its keeper does not answer.
    """
    with RaySession(options.ray_address, num_actors=1):
        return _start(options)


def list_services(options: ServiceListOptions) -> int:
    """Print the services of a cluster; return the exit code.

    Raises:
        ConfigError: there is no cluster.
    """
    with RaySession(options.ray_address, num_actors=1):
        return _list(json_output=options.json)


def print_logs(options: ServiceLogsOptions) -> int:
    """Print the last lines of a service's output; return the exit code.

    Raises:
        ConfigError: there is no such service, or no cluster.
        PeerTimeout: its keeper does not answer.
    """
    with RaySession(options.ray_address, num_actors=1):
        print("\n".join(_status(_find(options.name), options.name).lines))
        return 0


def stop(options: ServiceStopOptions) -> int:
    """Drain a service and remove it; return the exit code.

    Raises:
        ConfigError: there is no such service, or no cluster.
        PeerTimeout: its keeper does not answer.
    """
    with RaySession(options.ray_address, num_actors=1):
        return _stop(_find(options.name), options.name)


def _start(options: ServiceStartOptions) -> int:
    name = options.name
    if name in _names():
        raise ConfigError(
            f"there is a service {name!r} already: paceline service stop {name} ends it"
        )
    keeper = (
        ray.remote(KeeperActor)
        .options(
            name=_PREFIX + name,
            namespace=_NAMESPACE,
            lifetime="detached",
            max_restarts=-1,
            max_concurrency=2,  # status calls are answered while it stops
            num_cpus=0,
            scheduling_strategy=beside_driver(soft=True),
        )
        .remote(
            ("serve", *options.arguments),
            directory=os.getcwd(),
            path=str(ROOT),
            limits=RestartLimits(most=options.restarts),
            stop_s=_STOP_S,
            node_id=ray.get_runtime_context().get_node_id(),
        )
    )
    try:
        status = _await_ready(keeper, name)
        if status.state is not KeptState.READY:
            _NOTES.print("\n".join(status.lines[-_SHOWN:]), markup=False, soft_wrap=True)
            ended = f"serve ended with {status.exit_code}"
            why = status.lines[-1] if status.exit_code is None and status.lines else ended
            raise ConfigError(f"the service {name!r} did not start: {why}")
    except BaseException:
        ray.kill(keeper)
        raise
    print(f"{name} is {status.ready_line}")
    return 0


def _await_ready(keeper: Any, name: str) -> KeptStatus:
    deadline_s = time.monotonic() + _START_S
    with _NOTES.status(f"starting {name}"):
        while time.monotonic() < deadline_s:
            status = _status(keeper, name)
            if status.state is KeptState.READY or status.state.is_final:
                return status
            time.sleep(_POLL_S)
    raise PeerTimeout(f"the service {name!r} is not ready after {_START_S:.0f} s")


def _list(*, json_output: bool) -> int:
    found = {name: _look(name) for name in sorted(_names())}
    if json_output:
        print(json.dumps({n: None if s is None else asdict(s) for n, s in found.items()}))
        return 0
    table = Table()
    for column in ("service", "state", "up", "restarts", "last exit", "last line"):
        table.add_column(column)
    for name, status in found.items():
        if status is None:
            table.add_row(name, "its keeper does not answer", "-", "-", "-", "")
            continue
        code = "-" if status.exit_code is None else str(status.exit_code)
        up = f"{status.up_s:.0f} s" if status.up_s else "-"
        line = status.ready_line or (status.lines[-1] if status.lines else "")
        table.add_row(name, status.state.value, up, str(status.restarts), code, line)
    output_console().print(table)
    return 0


def _look(name: str) -> KeptStatus | None:
    """Return a service's status, None while its keeper is down or restarts."""
    try:
        return _status(_find(name), name)
    except PacelineError:
        return None


def _stop(keeper: Any, name: str) -> int:
    with _NOTES.status(f"draining {name}"):
        try:
            stopping, peer = keeper.stop.remote(), f"the keeper of {name!r}"
            status: KeptStatus = result_of(stopping, peer, timeout_s=_STOP_S + _ANSWER_S)
        finally:
            ray.kill(keeper)
    print(f"{name} ended, exit code {status.exit_code}")
    return 0


def _names() -> list[str]:
    actors = list_named_actors(all_namespaces=True)
    names = [actor["name"] for actor in actors if actor["namespace"] == _NAMESPACE]
    return [name.removeprefix(_PREFIX) for name in names if name.startswith(_PREFIX)]


def _find(name: str) -> Any:
    try:
        return ray.get_actor(_PREFIX + name, namespace=_NAMESPACE)
    except ValueError as error:
        known = ", ".join(sorted(_names())) or "none"
        raise ConfigError(f"there is no service {name!r}: there are {known}") from error


def _status(keeper: Any, name: str) -> KeptStatus:
    found = result_of(keeper.status.remote(), f"the keeper of {name!r}", timeout_s=_ANSWER_S)
    status: KeptStatus = found
    return status
