"""A job's plan counts the vectors and bytes that its processes really hold and send."""

import json
from pathlib import Path

import pytest

from parallel.training.adamw import AdamW
from runtime.clock import ManualClock
from runtime.errors import ConfigError
from runtime.training.chunk_work import ChunkWork
from runtime.training.job.job_config import (
    DataConfig,
    LoraConfig,
    OptimizerConfig,
    TrainConfig,
    WorkersConfig,
)
from runtime.training.planning.job_plan import count_trained, largest_chunk, model_of, plan_job
from runtime.training.scheme_plan import training_steps
from runtime.training.trainable import Trainable
from runtime.training.training_data import Sample
from runtime.training.training_step import SampleSizes
from runtime.training.worker import TrainWorker
from tests.support.frozen_models import num_bytes
from tests.support.local_pool import LocalPool
from tests.support.tiny_checkpoint import save_tiny_checkpoint

SAMPLES = [Sample(tuple(range(1, size)), size - 3) for size in (12, 6, 9, 20, 8, 7)]
SIZES = SampleSizes.of(SAMPLES)
LLAMA_8B: dict[str, object] = {
    "model_type": "llama",
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 8192,
    "rope_theta": 500000.0,
}
LLAMA_70B = LLAMA_8B | {
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
}


class CountingPool(LocalPool):
    """Counts the bytes that pass between driver and worker."""

    num_bytes = 0

    def start(self, worker: int, work: ChunkWork) -> None:
        super().start(worker, work)
        for event in self._events:
            gradient = event.result.gradient  # type: ignore[union-attr]  # no worker is lost here
            assert gradient is not None
            self.num_bytes += gradient.nbytes


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_checkpoint(tmp_path_factory.mktemp("tiny"))


def job(**workers: object) -> TrainConfig:
    return TrainConfig(
        optimizer=OptimizerConfig(steps=2, batch=6, microbatch=2),
        workers=WorkersConfig(**({"count": 1} | workers)),  # type: ignore[arg-type]  # its fields
    )


@pytest.mark.parametrize("method", ["lora", "full"])
def test_trained_numbers_and_weights_are_those_of_a_worker(tiny: Path, method: str) -> None:
    config = TrainConfig(method=method)  # type: ignore[arg-type]  # one of its texts
    plan = plan_job(tiny, config, sizes=SIZES)
    trainable = Trainable.load(tiny, config)
    assert plan.num_trained == len(trainable.get())
    held = plan.worker["base weights"] + plan.worker["trained weights"]
    assert held == num_bytes(trainable.model)


def test_the_bytes_of_a_step_are_those_that_are_sent(tiny: Path) -> None:
    config = job()
    plan = plan_job(tiny, config, sizes=SIZES)
    pool = CountingPool(TrainWorker(tiny, config, SAMPLES))
    optimizer = AdamW.start(Trainable.load(tiny, config).get())
    steps = list(training_steps(config, [optimizer], pool, SIZES, ManualClock()))
    assert pool.num_bytes == len(steps) * plan.step["gradients"]
    assert plan.step["parameters"] == optimizer.parameters.nbytes
    assert plan.driver["optimizer state"] == optimizer.first.nbytes + optimizer.second.nbytes
    assert plan.transfer_s(4.0 * plan.num_trained) == pytest.approx(1 + 3)


def test_a_scheme_in_rounds_sends_a_vector_for_each_worker(tiny: Path) -> None:
    plan = plan_job(tiny, job(count=4, scheme="uncoded"), sizes=SIZES)
    assert plan.step["gradients"] == 4 * plan.vector_bytes
    queued = plan_job(tiny, job(count=4), sizes=SIZES)
    assert queued.step["gradients"] == 3 * queued.vector_bytes


def test_the_largest_chunk_is_one_of_the_longest_samples(tiny: Path) -> None:  # noqa: ARG001
    config = job()
    found = largest_chunk(config, SIZES)
    assert (found.rows, found.length, found.num_learned) == (2, 19, 4)
    assert found.is_masked
    packed = TrainConfig(optimizer=config.optimizer, data=DataConfig(batching="packed"))
    found = largest_chunk(packed, SIZES)
    assert (found.rows, found.length) == (1, 19 + 11)
    assumed = largest_chunk(config, None)
    assert (assumed.rows, assumed.length, assumed.num_learned) == (2, 256, 2 * 255)


@pytest.mark.parametrize(("fields", "billions"), [(LLAMA_8B, 8.03), (LLAMA_70B, 70.55)])
def test_a_config_json_alone_is_planned(
    tmp_path: Path, fields: dict[str, object], billions: float
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(fields))
    whole = count_trained(tmp_path, model_of(tmp_path), TrainConfig(method="full"))
    assert whole / 1e9 == pytest.approx(billions, abs=0.01)
    lora = LoraConfig(rank=16, targets=["q_proj", "v_proj"])
    plan = plan_job(tmp_path, TrainConfig(base_precision="int4", lora=lora))
    layers, hidden = fields["num_hidden_layers"], fields["hidden_size"]
    assert isinstance(layers, int)
    assert isinstance(hidden, int)
    assert plan.num_trained == layers * 16 * (4 * hidden - hidden + 1024)
    # 5 bits a weight with scales and minima, and the embedding in bfloat16
    assert plan.worker["base weights"] / 1e9 == pytest.approx(0.625 * billions, rel=0.2)


def test_an_adapter_without_layers_is_rejected(tiny: Path) -> None:
    with pytest.raises(ConfigError, match="no linear layer is called query"):
        plan_job(tiny, TrainConfig(lora=LoraConfig(targets=["query"])))
