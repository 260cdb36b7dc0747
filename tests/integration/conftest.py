"""One local Ray for all integration tests, deployments on it, and one server of a tiny model."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from cluster.deploy.deployment import Deployment
from cluster.deploy.deployment_plan import plan_deployment, with_monitors
from cluster.deploy.drafter_capacity import DrafterCapacity
from cluster.deploy.drafter_plan import plan_drafter
from cluster.deploy.target_plan import plan_target
from cluster.network.ray_session import RaySession
from cluster.options.model_options import ModelOptions
from cluster.placement.cluster_nodes import this_machine
from tests.support.integration.serving_process import ServingProcess
from tests.support.models import smollm2_directory
from tests.support.tiny_checkpoint import save_tiny_checkpoint

Deploy = Callable[..., Deployment]


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    with RaySession(None, num_actors=16):
        yield


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_checkpoint(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def tiny_server(tiny_checkpoint: Path) -> Iterator[ServingProcess]:
    """A server for tests that leave it as it was.

    Its cache holds a dozen long requests, so that load on it makes requests yield.
    """
    settings = ("models.cache_tokens=3072", "models.max_batch=32", "max_open_per_client=128")
    process = ServingProcess(tiny_checkpoint, [f"--set={setting}" for setting in settings])
    yield process
    process.close()


@pytest.fixture(scope="module")
def deploy(ray_session: None) -> Iterator[Deploy]:  # noqa: ARG001  (it must be up)
    """Start deployments of SmolLM2 (or virtual ones) that end with the module."""
    with ExitStack() as stack:

        def start(
            *, cache_tokens: int = 16384, monitors: tuple[str, ...] = (), **options: object
        ) -> Deployment:
            if options.get("virtual") is None:
                options.setdefault("target", str(smollm2_directory()))
            fields: dict[str, object] = {
                "target": None,
                "drafter": None,
                "threads": 1,
                "draft_wait_s": 10.0,  # a busy machine is no reason to continue without drafts
            } | options
            models = ModelOptions(**fields)  # type: ignore[arg-type]  # a test names real fields
            target = plan_target(models)
            spec = plan_deployment(
                models,
                target,
                plan_drafter(models, target, DrafterCapacity(nodes=(this_machine(),))),
                cache_tokens=cache_tokens,
                stops=target.facts is not None,
            )
            deployment = stack.enter_context(Deployment(with_monitors(spec, monitors)))
            deployment.start(lambda _: None)
            return deployment

        yield start
