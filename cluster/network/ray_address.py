"""Which Ray an address means, and whether a driver here can join it, within seconds.

Ray's own client waits for minutes where nothing listens, with one message for most causes.
"""

import os
import platform
import time
from collections.abc import Callable, Sequence

import ray
from ray._common.tls_utils import load_certs_from_env
from ray._common.usage.usage_constants import CLUSTER_METADATA_KEY
from ray._private import services  # how Ray finds the Rays of a machine has no public way
from ray._private.ray_constants import KV_NAMESPACE_CLUSTER
from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined]  # from Cython
from ray.core.generated import gcs_pb2, gcs_service_pb2
from ray.exceptions import AuthenticationError

from runtime.errors import ConfigError
from runtime.files.strict_json import parse_object
from runtime.node.rpc_probe import Failure, ProbeFailed, TlsFiles, probe

AUTO = "auto"
TOKEN_HINT = (
    "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH if the token is not in "
    "~/.ray/auth_token"
)
_GET_KEY = "/ray.rpc.InternalKVGcsService/InternalKVGet"
_GET_NODES = "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo"
_PROBE_S = 5.0
_JOINING_S = 3.0
"""How long to wait for a node of this machine in the cluster: it may just have started."""
_POLL_S = 0.5

Ask = Callable[[str, str, bytes], "bytes | ProbeFailed"]
"""Sends a serialized request to a method at an address."""


def joinable(address: str) -> str:
    """Return HOST:PORT of the Ray that `--ray` names, if a driver here can join it.

    Raises:
        ConfigError: it cannot, as from `resolve` and `check_joinable`.
    """
    resolved = resolve(address)
    check_joinable(resolved)
    return resolved


def resolve(address: str, *, running: Callable[[], Sequence[str]] | None = None) -> str:
    """Return HOST:PORT of the Ray that `--ray` names; `auto` is the only one on this machine.

    Args:
        address: HOST:PORT or auto.
        running: finds the addresses of the Rays that have a process on this machine.

    Raises:
        ConfigError: it is not HOST:PORT or auto; or auto finds none, or more than one.
    """
    if address == AUTO:
        address = os.environ.get("RAY_ADDRESS", "") or AUTO
    if address != AUTO:
        return _checked(address)
    found = sorted(set((running or _running)()))
    if len(found) == 1:
        return found[0]
    if not found:
        raise ConfigError(
            "--ray auto: no Ray runs on this machine; start one with `ray start --head`, join one "
            "with `ray start --address=HEAD:6379`, or leave --ray out to run locally"
        )
    raise ConfigError(
        f"--ray auto: {len(found)} Rays run on this machine, at {' and '.join(found)}; name one, "
        f"as --ray {found[0]}"
    )


def check_joinable(address: str, *, ask: Ask | None = None) -> None:
    """Check that a driver here can join a Ray; blocks for at most ten seconds.

    Args:
        address: HOST:PORT, as `resolve` returns it.
        ask: sends a request; default: over gRPC.

    Raises:
        ConfigError: nothing listens there, or no Ray; or it requires another token, runs another
            version of Ray or Python, or has no node on this machine.
    """
    ask = ask or _ask
    target = services.canonicalize_bootstrap_address(address) or address
    request = gcs_service_pb2.InternalKVGetRequest(
        key=CLUSTER_METADATA_KEY, namespace=KV_NAMESPACE_CLUSTER
    )
    answer = ask(target, _GET_KEY, request.SerializeToString())
    if isinstance(answer, ProbeFailed):
        if answer.failure is Failure.UNREACHABLE and target != address:
            # Ray replaces localhost by this node's address; the answer on loopback has more.
            nearer = ask(address, _GET_KEY, request.SerializeToString())
            answer = nearer if isinstance(nearer, ProbeFailed) else answer
        raise ConfigError(_why_not(address, answer))
    _check_versions(address, gcs_service_pb2.InternalKVGetReply.FromString(answer).value)
    _check_has_node_here(address, target, ask)


def _checked(address: str) -> str:
    host, _, port = address.rpartition(":")
    if "/" in host or not host or not _is_port(port):
        origin = " (from RAY_ADDRESS)" if address == os.environ.get("RAY_ADDRESS") else ""
        hint = "; ray:// is the Ray Client's address" if address.startswith("ray://") else ""
        raise ConfigError(
            f"--ray is {address!r}{origin}: write HOST:PORT of the head's ray start, as "
            f"10.0.0.1:6379, or auto, or local{hint}"
        )
    return address


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdecimal() and 0 < int(text) < 1 << 16


def _running() -> Sequence[str]:
    services.find_gcs_addresses.cache_clear()
    return list(services.find_gcs_addresses())


def _ask(address: str, method: str, request: bytes) -> bytes | ProbeFailed:
    headers = _token_headers()
    return probe(
        address,
        method,
        request,
        metadata=list(headers.items()),
        tls=_tls_files(),
        timeout_s=_PROBE_S,
    )


def _token_headers() -> dict[str, str]:
    """Return the token headers of Ray's own client; none outside of token mode."""
    loader = AuthenticationTokenLoader.instance()
    try:
        headers: dict[str, str] = loader.get_token_for_http_header() if loader.has_token() else {}
    except AuthenticationError as error:
        what = error.message.partition(". ")[0]
        raise ConfigError(f"no token for the Ray cluster: {what}; {TOKEN_HINT}") from error
    return headers


def _tls_files() -> TlsFiles | None:
    if os.environ.get("RAY_USE_TLS", "0").lower() not in ("1", "true"):
        return None
    try:
        certificate, key, root = load_certs_from_env()
    except (OSError, RuntimeError) as error:
        raise ConfigError(f"RAY_USE_TLS is set, and its files cannot be read: {error}") from error
    return TlsFiles(root_ca=root, private_key=key, certificate=certificate)


def _why_not(address: str, failed: ProbeFailed) -> str:
    match failed.failure:
        case Failure.UNREACHABLE:
            return (
                f"no Ray cluster listens at --ray {address}: {failed.detail}; start one with `ray "
                "start --head`, or leave --ray out to run locally"
            )
        case Failure.SILENT:
            return (
                f"--ray {address} does not answer within {_PROBE_S:g} s: no Ray head runs there, "
                "it hangs, or a firewall drops the packets"
            )
        case Failure.UNAUTHENTICATED:
            what = "another token" if _token_headers() else "a token, and none was given"
            return f"the Ray cluster at --ray {address} requires {what}: {TOKEN_HINT}"
        case Failure.FOREIGN:
            return (
                f"what listens at --ray {address} is no Ray head ({failed.detail}): give the port "
                "of ray start --head, 6379 by default, not the dashboard's or the client's"
            )


def _check_versions(address: str, metadata: bytes) -> None:
    known = (
        parse_object(metadata.decode("utf-8", "replace"), f"--ray {address}") if metadata else {}
    )
    for what, here in (("ray", ray.__version__), ("python", platform.python_version())):
        there = str(known.get(f"{what}_version", here))
        level = os.environ.get("RAY_DEFAULT_PYTHON_VERSION_MATCH_LEVEL", "patch")
        parts = 2 if what == "python" and level == "minor" else 3
        if there.split(".")[:parts] != here.split(".")[:parts]:
            raise ConfigError(
                f"the Ray cluster at --ray {address} runs {what} {there}, this driver {here}: "
                f"install {what} {there} here, or run the verb there with `paceline submit`"
            )


def _check_has_node_here(address: str, target: str, ask: Ask) -> None:
    """Reject a cluster without a node on this machine: a driver connects through its node."""
    deadline_s = time.monotonic() + _JOINING_S
    while True:
        answer = ask(target, _GET_NODES, b"")
        if isinstance(answer, ProbeFailed):
            raise ConfigError(_why_not(address, answer))
        nodes = gcs_service_pb2.GetAllNodeInfoReply.FromString(answer).node_info_list
        alive = [n for n in nodes if n.state == gcs_pb2.GcsNodeInfo.GcsNodeState.ALIVE]
        if {node.node_id.hex() for node in alive} & services.find_node_ids():
            return
        if time.monotonic() >= deadline_s:
            where = ", ".join(sorted({n.node_manager_address for n in alive})) or "none"
            raise ConfigError(
                f"the Ray cluster at --ray {address} has no node on this machine (its nodes: "
                f"{where}): run this on one of them, join with `ray start --address={address}`, "
                "or use `paceline submit`"
            )
        time.sleep(_POLL_S)
