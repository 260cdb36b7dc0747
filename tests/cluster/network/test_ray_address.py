"""Which Ray an address means, and the cause that is named where it cannot be joined."""

import json
import platform

import pytest
import ray
from ray.core.generated import gcs_pb2, gcs_service_pb2

from cluster.network.ray_address import check_joinable, resolve
from runtime.errors import ConfigError
from runtime.node.rpc_probe import Failure, ProbeFailed

HEAD = "10.0.0.1:6379"
NODE = "ab" * 28


class FakeHead:
    """Answers what a Ray head answers to the two requests of a driver that wants to join."""

    def __init__(self, failure: Failure | None = None, **versions: str) -> None:
        self._failure = failure
        here = {"ray_version": ray.__version__, "python_version": platform.python_version()}
        self._metadata = json.dumps(here | versions).encode()

    def __call__(self, _address: str, method: str, _request: bytes) -> bytes | ProbeFailed:
        if self._failure is not None:
            return ProbeFailed(failure=self._failure, detail="it answers in gRPC")
        if method.endswith("InternalKVGet"):
            return bytes(
                gcs_service_pb2.InternalKVGetReply(value=self._metadata).SerializeToString()
            )
        node = gcs_pb2.GcsNodeInfo(node_id=bytes.fromhex(NODE), node_manager_address="10.0.0.7")
        reply = gcs_service_pb2.GetAllNodeInfoReply(node_info_list=[node])
        return bytes(reply.SerializeToString())


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_ADDRESS", "RAY_USE_TLS", "RAY_DEFAULT_PYTHON_VERSION_MATCH_LEVEL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("cluster.network.ray_address._JOINING_S", 0.0)


def joins(monkeypatch: pytest.MonkeyPatch, head: FakeHead, *, node: str = NODE) -> None:
    monkeypatch.setattr("cluster.network.ray_address.services.find_node_ids", lambda: {node})
    check_joinable(HEAD, ask=head)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("10.0.0.1", "write HOST:PORT of the head's ray start"),
        ("", "write HOST:PORT"),
        (":6379", "write HOST:PORT"),
        ("head:70000", "write HOST:PORT"),
        ("head:6379/x", "write HOST:PORT"),
        ("http://head:8265", "write HOST:PORT"),
        ("ray://head:10001", "ray:// is the Ray Client's address"),
    ],
)
def test_an_address_of_another_form_is_rejected(address: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        resolve(address)


@pytest.mark.parametrize("address", ["10.0.0.1:6379", "head.example:1", "[::1]:6379"])
def test_an_address_is_taken_as_it_is_written(address: str) -> None:
    assert resolve(address) == address


def test_auto_is_the_only_ray_of_this_machine() -> None:
    assert resolve("auto", running=lambda: [HEAD, HEAD]) == HEAD
    with pytest.raises(ConfigError, match="no Ray runs on this machine"):
        resolve("auto", running=list)
    two = "2 Rays run on this machine, at 10.0.0.1:6379 and 10.0.0.1:7000; name one"
    with pytest.raises(ConfigError, match=two):
        resolve("auto", running=lambda: ["10.0.0.1:7000", HEAD])


def test_auto_is_the_cluster_of_the_job_it_runs_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.9:6379")
    assert resolve("auto", running=lambda: [HEAD, "10.0.0.1:7000"]) == "10.0.0.9:6379"
    monkeypatch.setenv("RAY_ADDRESS", "http://head:8265")
    with pytest.raises(ConfigError, match=r"--ray is 'http://head:8265' \(from RAY_ADDRESS\)"):
        resolve("auto")


def test_a_cluster_with_a_node_here_is_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    joins(monkeypatch, FakeHead())


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        (Failure.UNREACHABLE, "no Ray cluster listens at --ray 10.0.0.1:6379: it answers in gRPC"),
        (Failure.SILENT, "does not answer within 5 s"),
        (Failure.FOREIGN, "what listens at --ray 10.0.0.1:6379 is no Ray head"),
        (Failure.UNAUTHENTICATED, "requires a token, and none was given: set RAY_AUTH_MODE=token"),
    ],
)
def test_each_failure_has_a_cause_of_its_own(
    failure: Failure, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whatever this machine has in ~/.ray.
    monkeypatch.setattr("cluster.network.ray_address._token_headers", dict)
    with pytest.raises(ConfigError, match=words):
        joins(monkeypatch, FakeHead(failure))


def test_another_version_is_named_with_both(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=rf"runs ray 2\.1\.0, this driver {ray.__version__}"):
        joins(monkeypatch, FakeHead(ray_version="2.1.0"))
    with pytest.raises(ConfigError, match=r"runs python 3\.8\.1, this driver "):
        joins(monkeypatch, FakeHead(python_version="3.8.1"))


def test_python_may_differ_in_the_patch_where_ray_is_told_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = ".".join([*platform.python_version_tuple()[:2], "99"])
    with pytest.raises(ConfigError, match="runs python"):
        joins(monkeypatch, FakeHead(python_version=other))
    monkeypatch.setenv("RAY_DEFAULT_PYTHON_VERSION_MATCH_LEVEL", "minor")
    joins(monkeypatch, FakeHead(python_version=other))


def test_a_cluster_without_a_node_here_is_named_with_its_nodes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ConfigError, match=r"has no node on this machine \(its nodes: 10\.0\.0\.7"):
        joins(monkeypatch, FakeHead(), node="cd" * 28)
