"""A whole run on a tiny model without Ray: hosts, replay, verification, rewards."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from protos.paceline.v1 import seedlog_pb2 as pb
from protos.paceline.v1 import seedlog_pb2_grpc as rpc
from runtime.errors import ConfigError, ProtocolError
from runtime.models.checkpoint import resolve_model
from runtime.training.job.faults_config import FaultsConfig
from runtime.training.job.job_config import LoraConfig, OptimizerConfig, TrainConfig
from runtime.training.job.shared_seed_settings import SharedSeedConfig
from runtime.training.shared_seed.host import SequencerHost, WorkerHost, WorkerSettings, follow
from runtime.training.shared_seed.log_check import difference
from runtime.training.shared_seed.points import PointsModel
from runtime.training.shared_seed.port import GrpcPort
from runtime.training.shared_seed.replay import replay, write_result
from runtime.training.shared_seed.rewards import open_judge
from runtime.training.shared_seed.seed_log import read_log
from runtime.training.shared_seed.seed_service import ListenSettings
from runtime.training.shared_seed.seed_worker import SeedWorker, WorkerProgress
from runtime.training.shared_seed.shared_seed_job import header_of
from runtime.training.training_data import TextExample
from tests.support.tiny_checkpoint import save_tiny_checkpoint

EXAMPLES = [TextExample(f"w{a} w{b}", f" w{a + b}") for a in range(6) for b in range(6)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_checkpoint(tmp_path_factory.mktemp("tiny"))


def config_of(checkpoint: Path, out: Path, **section: object) -> TrainConfig:
    out.mkdir(exist_ok=True)
    fields: dict[str, object] = {"directions": 2, "eps": 0.05, "hash_every": 4} | section
    return TrainConfig(
        model=str(checkpoint),
        out=str(out),
        method="shared-seed",
        lora=LoraConfig(rank=4, alpha=8.0),
        optimizer=OptimizerConfig(steps=24, batch=8, lr=0.03, schedule="constant", warmup=0.0),
        shared_seed=SharedSeedConfig(**fields),  # type: ignore[arg-type]  # a test names real ones
    )


def train(
    config: TrainConfig, *, workers: int = 2, reward: str = ""
) -> tuple[SeedWorker, list[WorkerProgress]]:
    """Run a job with workers in threads; return a follower, and what workers progress."""
    directory = resolve_model(config.model)
    header = header_of(config, directory)
    host = SequencerHost(config, header, ListenSettings(address="127.0.0.1:0"), "")
    progress: list[WorkerProgress] = []
    settings = WorkerSettings(
        directory=directory, name="m", faults=FaultsConfig(), reward=reward, give_up_s=30
    )

    def work() -> None:
        port = GrpcPort(host.addresses[0])
        progress.append(WorkerHost(port, settings, lambda _: EXAMPLES).run())

    threads = [threading.Thread(target=work) for _ in range(workers)]
    for thread in threads:
        thread.start()
    model = PointsModel.load(directory, header)
    try:
        follower = follow(GrpcPort(host.addresses[0]), header, model, lambda _: True, give_up_s=60)
        assert follower.member is not None
        out = Path(config.out) / "final"
        theta = follower.member.replica.theta
        write_result(out, model.points, theta, header, directory)
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
    finally:
        host.close()
    assert len(progress) == workers
    return follower, progress


def weights_of(result: Path) -> dict[str, np.ndarray]:
    file = next(result.glob("*model.safetensors"))
    found: dict[str, np.ndarray] = load_file(file)
    return found


@pytest.mark.parametrize(
    "section",
    [
        {},
        {"sides": 1},
        {"momentum": 0.5},
        {"pool": 16},
        {"normalise": False},
        {"weights": "linear", "direction_rank": 2},
    ],
)
def test_a_log_rebuilds_what_was_learned(
    checkpoint: Path, tmp_path: Path, section: dict[str, object]
) -> None:
    config = config_of(checkpoint, tmp_path / "run", **section)
    follower, progress = train(config)
    assert follower.member is not None
    assert {t.round for t in progress} == {24}
    log = tmp_path / "run" / "seeds.log"
    rebuilt = replay(log, checkpoint)
    assert rebuilt.replica.digest() == follower.member.replica.digest()
    assert difference(tmp_path / "run" / "final", rebuilt) is None
    write_result(
        tmp_path / "again", rebuilt.points, rebuilt.replica.theta, rebuilt.header, checkpoint
    )
    mine, other = weights_of(tmp_path / "run" / "final"), weights_of(tmp_path / "again")
    assert mine.keys() == other.keys()
    assert all(np.array_equal(mine[name], other[name]) for name in mine)
    start = PointsModel.load(checkpoint, rebuilt.header).points.start()
    assert not np.array_equal(start.numpy(), rebuilt.replica.theta.numpy())


def test_another_base_is_rejected(checkpoint: Path, tmp_path: Path) -> None:
    config = config_of(checkpoint, tmp_path / "run")
    header = header_of(config, checkpoint)
    SequencerHost(config, header, ListenSettings(address="127.0.0.1:0"), "").close()
    other = tmp_path / "other"
    other.mkdir()
    for file in checkpoint.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    weights: dict[str, np.ndarray] = load_file(other / "model.safetensors")
    name = sorted(weights)[0]
    weights[name] = weights[name] + np.float32(1e-6)
    save_file(weights, other / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigError, match="checksum mismatch"):
        replay(tmp_path / "run" / "seeds.log", other)


def test_a_run_learns(checkpoint: Path, tmp_path: Path) -> None:
    config = config_of(checkpoint, tmp_path / "run", directions=8)
    losses: list[float] = []
    longer = replace(config, optimizer=replace(config.optimizer, steps=80, lr=0.05))
    _, progress = train(longer, workers=1)
    losses.append(progress[0].loss)
    shorter = replace(
        config, out=str(tmp_path / "short"), optimizer=replace(longer.optimizer, steps=1)
    )
    (tmp_path / "short").mkdir()
    _, progress = train(shorter, workers=1)
    assert losses[0] < progress[0].loss - 0.3
    records = read_log(tmp_path / "run" / "seeds.log")
    assert records.num_bytes < 80 * (8 + 60) + 600


def length_reward(prompt: str, answer: str) -> float:
    """Like answers that name even words."""
    assert prompt.startswith("w")
    words = [int(word[1:]) for word in answer.split()]
    return sum(word % 2 == 0 for word in words) / max(len(words), 1)


def broken_reward(prompt: str, answer: str) -> float:  # noqa: ARG001  (as rewards are called)
    return float("nan")


def test_rewards_are_made_higher(checkpoint: Path, tmp_path: Path) -> None:
    name = f"{__name__}:length_reward"
    config = config_of(
        checkpoint, tmp_path / "run", directions=8, reward=name, max_answer=4, eps=0.2
    )
    config = replace(config, optimizer=replace(config.optimizer, steps=40, lr=0.1))
    _, progress = train(config, workers=1, reward=name)
    assert -progress[0].loss > 0.75  # about half of the words are even
    assert replay(tmp_path / "run" / "seeds.log", checkpoint).num_scalars > 100


class Scorer(rpc.ScoringServiceServicer):
    """Scores by length; too few where asked so."""

    def __init__(self) -> None:
        self.missing = 0

    def Score(self, request: pb.ScoreRequest, context: Any) -> pb.ScoreResponse:  # noqa: ARG002, N802
        scores = [float(len(one.answer)) for one in request.answers]
        return pb.ScoreResponse(scores=scores[self.missing :])


@pytest.fixture
def scorer() -> Iterator[tuple[str, Scorer]]:
    server = grpc.server(ThreadPoolExecutor(2))
    servicer = Scorer()
    rpc.add_ScoringServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"grpc://127.0.0.1:{port}", servicer
    server.stop(0)


def test_a_scorer_judges_over_grpc(scorer: tuple[str, Scorer]) -> None:
    address, servicer = scorer
    judge = open_judge(address)
    assert judge(["a", "b"], ["xy", "z"]) == [2.0, 1.0]
    servicer.missing = 1
    with pytest.raises(ProtocolError, match="1 scores for 2 answers"):
        judge(["a", "b"], ["xy", "z"])


def test_judges_that_cannot_be_used_are_named() -> None:
    for name in ("plain", "no_such_module:f", f"{__name__}:nothing"):
        with pytest.raises(ConfigError, match=name):
            open_judge(name)
    with pytest.raises(ProtocolError, match="a finite number"):
        open_judge(f"{__name__}:broken_reward")(["a"], ["b"])


def test_a_run_by_rewards_needs_a_judge(checkpoint: Path, tmp_path: Path) -> None:
    config = config_of(checkpoint, tmp_path / "run", reward="x:y")
    header = header_of(config, checkpoint)
    host = SequencerHost(config, header, ListenSettings(address="127.0.0.1:0"), "")
    settings = WorkerSettings(directory=checkpoint, name="m", faults=FaultsConfig())
    with pytest.raises(ConfigError, match="give `reward`"):
        WorkerHost(GrpcPort(host.addresses[0]), settings, lambda _: EXAMPLES)
    host.close()
