"""Every error of Ray has a cause in our words, and keeps its kind."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from ray import exceptions as rays
from ray.exceptions import RayError

from cluster.network.ray_errors import TABLE, is_loss, translated
from runtime.errors import ConfigError, PacelineError, PeerLost, PeerTimeout, ShapeError

ROOT = Path(__file__).resolve().parents[3]
NOT_ABOUT_CALLS = {
    "cluster/cli/command_endings.py": "names Ray's errors as the last resort of the command line",
    "cluster/jobs/submit.py": "errors of Ray's job client",
    "cluster/network/ray_address.py": "errors of reading a token",
    "cluster/network/ray_session.py": "errors of joining a cluster",
    "cluster/placement/reservation.py": "errors of giving a placement group back",
}
NO_FAILURE_OF_A_CALL = {
    rays.ActorAlreadyExistsError: "services are looked up by name before they are made",
    rays.ActorHandleNotFoundError: "handles are not sent between processes",
    rays.AsyncioActorExit: "ends an asynchronous actor from within; there are none",
    rays.ObjectRefStreamEndOfStreamError: "ends a generator's loop",
    rays.OufOfBandObjectRefSerializationException: "references are not pickled",
    rays.PlasmaObjectNotAvailable: "raised within Ray alone",
    rays.UserCodeException: "raised within Ray alone",
}


def kinds(of: type[RayError] = RayError) -> Iterator[type[RayError]]:
    for kind in of.__subclasses__():
        if kind.__module__ == "ray.exceptions":
            yield kind
        yield from kinds(kind)


def test_the_table_knows_every_error_that_a_call_can_end_with() -> None:
    known = (*(kind for kind, _ in TABLE), *NO_FAILURE_OF_A_CALL)
    assert [kind.__name__ for kind in kinds() if not issubclass(kind, known)] == []


def test_no_entry_is_hidden_by_one_before_it() -> None:
    seen: list[type[RayError]] = []
    for kind, _ in TABLE:
        assert not issubclass(kind, tuple(seen)), kind
        seen.append(kind)


def task_error(cause: Exception) -> rays.RayTaskError:
    return rays.RayTaskError(function_name="work", traceback_str="a traceback", cause=cause)


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (task_error(ConfigError("no model")), ConfigError, "^no model$"),
        (task_error(ShapeError("2 is not 3")), ShapeError, "^rank 1: 2 is not 3$"),
        (task_error(OSError(5, "gone")), PacelineError, r"^rank 1 failed: OSError\(5, 'gone'\)$"),
        (rays.ActorDiedError(), PeerLost, "^rank 1 died: The actor died unexpectedly"),
        (
            rays.ActorDiedError(task_error(ConfigError("no model"))),
            PacelineError,
            "^rank 1 cannot start: ",
        ),
        (
            rays.RayActorError(error_msg="the node", preempted=True),
            PeerLost,
            "^rank 1 died: its node left the cluster after a preemption notice$",
        ),
        (
            rays.ActorUnschedulableError("no such node"),
            PeerLost,
            "^rank 1 cannot run on its node, which left or is leaving: .*no such node$",
        ),
        (rays.NodeDiedError("a\nb"), PeerLost, "^rank 1 is lost with its node: a b$"),
        (rays.OutOfMemoryError("90 %"), PeerLost, "ran out of memory: 90 %$"),
        (rays.RuntimeEnvSetupError("pip"), ConfigError, "runtime environment failed: .*pip$"),
        (rays.GetTimeoutError("late"), PeerTimeout, "^rank 1 did not answer in time: late$"),
        (rays.RpcError("cut"), PeerLost, "Ray's head does not answer: cut$"),
    ],
)
def test_an_error_is_named_by_its_cause(
    error: RayError, kind: type[PacelineError], words: str
) -> None:
    with pytest.raises(kind, match=words) as raised:
        raise translated(error, "rank 1")
    assert raised.type is kind


def test_a_rejection_at_a_start_is_one_there_and_here() -> None:
    text = "The actor died because of an error\n  a traceback\nruntime.errors.ConfigError: no model"
    rejected = rays.RayActorError(error_msg=text, actor_init_failed=True)
    with pytest.raises(ConfigError, match=r"^rank 1 cannot start: no model$"):
        raise translated(rejected, "rank 1")


def test_only_this_table_translates_errors_of_calls() -> None:
    importing = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "cluster").rglob("*.py")
        if "ray.exceptions" in path.read_text(encoding="utf-8")
    }
    assert importing - {"cluster/network/ray_errors.py"} == NOT_ABOUT_CALLS.keys()


def test_the_error_of_a_call_keeps_whether_its_process_is_gone() -> None:
    for raised, is_gone in (
        (rays.ActorDiedError(), True),
        (rays.NodeDiedError("a"), True),
        (rays.GetTimeoutError("late"), False),
        (task_error(PeerLost("a peer of the worker")), False),
    ):
        error = translated(raised, "rank 1")
        error.__cause__ = raised
        assert is_loss(error) is is_gone
