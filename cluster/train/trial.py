"""One model of a fine-tuning job in the driver: its optimizer, its files, and no model."""

from pathlib import Path

from cluster.train.watching import Watch
from parallel.training.adamw import AdamW
from runtime.clock import MonotonicClock
from runtime.errors import ConfigError
from runtime.training.adapters.adapter_tensors import started_from
from runtime.training.adapters.saving import drop_old_adapters, save_adapter, save_whole
from runtime.training.adapters.weight_layout import StartPoint, WeightLayout
from runtime.training.job.job_config import TrainConfig
from runtime.training.job_checkpoint import JobFiles
from runtime.training.state_writer import StateWriter
from runtime.training.trainable import Trainable


class Trial:
    """A model in training, from its start or its last state."""

    def __init__(
        self,
        config: TrainConfig,
        files: JobFiles,
        start: StartPoint,
        state: AdamW | None,
        base: Path,
    ) -> None:
        """Continue a model's training.

        Args:
            config: the model's.
            files: where states, metrics and results are written.
            start: what is trained, and its first values.
            state: the last state; None at the start.
            base: directory of the model that the job starts from.

        Raises:
            ConfigError: the state belongs to another number of weights.
        """
        if state is not None and state.parameters.size != start.layout.size:
            raise ConfigError(
                f"the state in {config.out} has {state.parameters.size:,} numbers, the job "
                f"trains {start.layout.size:,}: name another `out`"
            )
        self.config = config
        self.files = files
        self.optimizer = state or AdamW.start(start.parameters)
        checkpoint = config.checkpoint
        self.states = StateWriter(
            files.save_state,
            MonotonicClock(),
            every=checkpoint.state_every,
            every_s=checkpoint.state_every_s,
            written_step=self.optimizer.step,
        )
        self.watch = Watch(files, config.watch, first_step=self.optimizer.step)
        self._layout: WeightLayout = start.layout
        self._directory = base
        is_hub_name = "/" in config.model and not Path(config.model).exists()
        self._base = config.model if is_hub_name else str(base)

    def save(self, name: str) -> None:
        """Write an adapter, or a whole model."""
        where = self.files.directory / name
        weights = self._layout.split(self.optimizer.parameters)
        if self.config.method == "lora":
            save_adapter(where, weights, self.config.lora, self._base)
        else:
            is_tied = self._layout.has_tied_head
            save_whole(where, weights, self._directory, has_tied_head=is_tied)
        drop_old_adapters(self.files.directory, self.config.checkpoint.keep)


def adapter_start(directory: Path, config: TrainConfig) -> StartPoint:
    """Return where an adapter starts, without loading the model's weights.

    Raises:
        ConfigError: the model has no layers of the configured names, or the adapter to start from
            does not fit.
    """
    start = Trainable.adapter(directory, config).start_point
    return started_from(start, config.lora) if config.lora.start else start


def is_finished(files: JobFiles, state: AdamW | None, num_steps: int) -> bool:
    """Return whether a model made all its steps, and was written."""
    made_all = state is not None and state.step >= num_steps
    return made_all and (files.directory / "final").is_dir()
