"""`paceline submit`: a verb as a Ray job, with its logs and its exit code here.

Ray's job server runs the verb on the head's node, from an upload of this directory: nothing of
Paceline has to be installed on the cluster, only what it depends on.
"""

import asyncio
import contextlib
import importlib
import importlib.util
import os
import shlex
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml
from ray.exceptions import RayError
from ray.job_submission import JobStatus, JobSubmissionClient
from rich.console import Console

from cluster.jobs.job_output import JobOutput
from cluster.jobs.upload_contents import left_behind
from cluster.network.ray_address import TOKEN_HINT
from cluster.options.cluster_options import SubmitOptions
from runtime.channels.addresses import is_loopback
from runtime.errors import ConfigError, PeerLost, PeerTimeout
from runtime.files.documents import read_text
from runtime.node.http_probe import why_silent

VERBS = ("serve", "generate", "train", "draft", "bench", "experiment")
ROOT = Path(__file__).resolve().parents[2]
_ROOMS = ("parallel", "runtime", "actors", "cluster", "protos")
_NOTES = Console(stderr=True, highlight=False)
_STOP_S = 60.0
_AGENT_S = 30.0
_NO_AGENT = "No available agent"
"""What Ray answers until the head's agent, which starts jobs, is up."""
_AGENT_HINT = (
    " The head's agent does not answer; if the node has a second Ray, start the head with "
    "--dashboard-agent-listen-port, as two agents cannot share one port."
)
_MAX_ENVIRONMENT_BYTES = 1 << 20
_JOB_SERVER = "it is the dashboard of ray start --head, which needs ray[default] there"
_PROBE_S = 8.0
_POLL_S = 0.5
_RECONNECTS = 20
_STOPPED = 130
_OTHER_ADDRESSES = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")
_SERVER_ERRORS = (RuntimeError, OSError, RayError)  # what Ray's client and requests raise


def run(options: SubmitOptions) -> int:
    """Submit the job and follow it to its end; return its exit code.

    Raises:
        ConfigError: the verb, a file or the address cannot be used.
        PeerError: the job server stopped answering.
    """
    entrypoint = entrypoint_of((options.verb, *options.arguments))
    environment = runtime_environment(options)
    client = _connect(options.address)
    job = _submit(
        client,
        entrypoint=entrypoint,
        runtime_env=environment,
        submission_id=options.submission_id,
        metadata={"paceline": options.verb},
    )
    where = f"--address {options.address} {job}"
    _NOTES.print(f"job {job}: {entrypoint}", soft_wrap=True, markup=False)
    if options.detach:
        print(job)
        _NOTES.print(f"ray job logs -f {where} shows it, ray job stop {where} ends it")
        return 0
    return _follow(client, job, where)


def _submit(client: Any, **job: Any) -> str:
    """Submit a job and return its name; a cluster that was just started gets time to be ready."""
    deadline_s = time.monotonic() + _AGENT_S
    while True:
        try:
            return str(client.submit_job(**job))
        except (*_SERVER_ERRORS, ValueError) as error:
            late = _NO_AGENT in str(error)
            if late and time.monotonic() < deadline_s:
                time.sleep(_POLL_S)
                continue
            raise ConfigError(
                f"the job was not accepted: {_first_lines(error)}{_AGENT_HINT if late else ''}"
            ) from error


def entrypoint_of(arguments: tuple[str, ...]) -> str:
    """Return the shell command that runs a verb from an upload.

    Raises:
        ConfigError: this verb cannot run as a job.
    """
    if arguments[0] not in VERBS:
        raise ConfigError(f"submit {arguments[0]}: choose one of {', '.join(VERBS)}")
    return shlex.join(["python", "-m", "cluster.jobs.submitted", *arguments])


def runtime_environment(options: SubmitOptions) -> dict[str, Any]:
    """Return the job's environment: the file's, with this directory and Paceline's code to upload.

    Raises:
        ConfigError: the file cannot be read, or there is no such directory.
    """
    environment = _read_environment(options.runtime_env)
    where = str(options.working_dir or environment.get("working_dir", "."))
    if "://" in where:  # Ray fetches it on each node
        return environment | {"working_dir": where}
    directory = Path(where)
    if not directory.is_dir():
        raise ConfigError(f"--working-dir {directory} is no directory")
    environment["working_dir"] = str(directory.resolve())
    if unreadable := left_behind(directory):
        excludes = [*(environment.get("excludes") or []), *(one.pattern for one in unreadable)]
        environment["excludes"] = excludes
        names = ", ".join(f"{one.name} ({one.why})" for one in unreadable)
        _NOTES.print(f"not uploaded: {names}", soft_wrap=True, markup=False)
    if not (directory / "cluster" / "cli" / "main.py").is_file():
        ours = [str(ROOT / room) for room in _ROOMS]
        environment["py_modules"] = [*environment.get("py_modules", []), *ours]
    return environment


def _read_environment(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    text = read_text(path, kind="--runtime-env", max_bytes=_MAX_ENVIRONMENT_BYTES)
    try:
        read = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"--runtime-env {path} is not YAML or JSON: {reason}") from error
    if not isinstance(read, dict):
        raise ConfigError(f"--runtime-env {path}: write keys as env_vars, pip, excludes")
    return read


def _connect(address: str) -> Any:
    if importlib.util.find_spec("aiohttp") is None:
        raise ConfigError(
            "submit needs Ray's job client, which is not installed: "
            f"{sys.executable} -m pip install 'paceline[cluster]'"
        )
    if not address.startswith(("http://", "https://")):
        raise ConfigError(f"--address is {address!r}: write http://HEAD:8265, Ray's dashboard")
    for name in _OTHER_ADDRESSES:
        os.environ.pop(name, None)  # Ray's client would prefer it to the address given
    host = urlsplit(address).hostname or ""
    if is_loopback(f"{host}:0"):  # Ray's client would ask the proxy of the environment
        named = os.environ.get("no_proxy") or os.environ.get("NO_PROXY")
        os.environ["no_proxy"] = f"{named},{host}" if named else host
    silent = why_silent(f"{address}/api/version", timeout_s=_PROBE_S)
    if silent:
        raise ConfigError(f"no job server answers at --address {address} ({silent}): {_JOB_SERVER}")
    try:
        return JobSubmissionClient(address)
    except _SERVER_ERRORS as error:
        if "uthentication" in str(error):
            raise ConfigError(f"{address} requires a token: {TOKEN_HINT}") from error
        raise ConfigError(
            f"what answers at --address {address} is no job server ({_first_lines(error)}): "
            f"{_JOB_SERVER}"
        ) from error


def _follow(client: Any, job: str, where: str) -> int:
    """Print the logs until the job has ended; an interrupt ends the job."""
    shown = JobOutput(sys.stdout, sys.stderr)
    try:
        num_shown = asyncio.run(_show_logs(client, job, shown))
        return _outcome(client, job, num_shown, shown)
    except (KeyboardInterrupt, SystemExit):
        _NOTES.print(f"stopping {job}; interrupt again to leave it running", soft_wrap=True)
    try:
        client.stop_job(job)
        status = _await_end(client, job)
    except (KeyboardInterrupt, SystemExit):
        _NOTES.print(f"it may still run: ray job stop {where}", soft_wrap=True)
        return _STOPPED
    except _SERVER_ERRORS as error:
        raise PeerLost(f"the job server at {where} did not stop the job: {error}") from error
    _NOTES.print(f"{job}: {status.value.lower()}")
    return _STOPPED


async def _show_logs(client: Any, job: str, shown: JobOutput) -> int:
    """Print the job's log as it arrives; a broken connection is resumed.

    Returns how many characters arrived: the last ones of a job that ended may be missing.
    """
    broken = (*_SERVER_ERRORS, importlib.import_module("aiohttp").ClientError)
    num_shown = 0
    for attempt in range(_RECONNECTS):
        num_received = 0  # a new connection begins with the first character again
        try:
            async for text in client.tail_job_logs(job):
                shown.write(text[max(0, num_shown - num_received) :])
                num_received += len(text)
                num_shown = max(num_shown, num_received)
            return num_shown
        except broken as error:
            with contextlib.suppress(*_SERVER_ERRORS):
                if client.get_job_status(job).is_terminal():
                    return num_shown
            if attempt == _RECONNECTS - 1:
                raise PeerLost(f"the logs of {job} broke off: {_first_lines(error)}") from error
            await asyncio.sleep(_POLL_S * (attempt + 1))
    return num_shown


def _outcome(client: Any, job: str, num_shown: int, shown: JobOutput) -> int:
    status = _await_end(client, job)
    shown.write(client.get_job_logs(job)[num_shown:])
    shown.close()
    info = client.get_job_info(job)
    if status == JobStatus.SUCCEEDED:
        return 0
    code: int | None = info.driver_exit_code
    if status == JobStatus.STOPPED:
        _NOTES.print(f"{job} was stopped")
        return _STOPPED
    if code is None:  # it never ran
        _NOTES.print(f"[red]{job} failed:[/] {info.message}", soft_wrap=True)
    return code or 1


def _await_end(client: Any, job: str) -> Any:
    deadline_s = time.monotonic() + _STOP_S
    while time.monotonic() < deadline_s:
        status = client.get_job_status(job)
        if status.is_terminal():
            return status
        time.sleep(_POLL_S)
    raise PeerTimeout(f"{job} is still {status.value} after {_STOP_S:.0f} s")


def _first_lines(error: BaseException) -> str:
    return " ".join(str(error).split())[:400]
