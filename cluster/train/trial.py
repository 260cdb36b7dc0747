"""One model of a fine-tuning job in the driver: its optimizer, its files, and no model."""

from pathlib import Path

from cluster.train.watching import Watch
from parallel.training.adamw import AdamW
from parallel.training.run_history import RunHistory
from runtime.clock import MonotonicClock
from runtime.errors import ConfigError
from runtime.training.adapters.adapter_tensors import started_from
from runtime.training.adapters.saving import drop_old_adapters, save_adapter, save_whole
from runtime.training.adapters.weight_layout import StartPoint, WeightLayout
from runtime.training.job.job_config import TrainConfig
from runtime.training.job_checkpoint import JobFiles
from runtime.training.state_writer import StateWriter
from runtime.training.trainable import Trainable

BEST = "best"
"""Directory of the weights that the best evaluation measured."""


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
            ConfigError: the state belongs to another number of weights, or no weight has a name of
                `optimizer.no_decay`.
        """
        if state is not None and state.parameters.size != start.layout.size:
            raise ConfigError(
                f"the state in {config.out} has {state.parameters.size:,} numbers, the job "
                f"trains {start.layout.size:,}: name another `out`"
            )
        self.config = config
        self.files = files
        self.optimizer = state or AdamW.start(start.parameters)
        self.optimizer.undecayed = start.layout.undecayed(config.optimizer.no_decay)
        self.history = RunHistory(files.metrics())
        self.is_known_to_diverge = False
        """Whether the user was warned of it."""
        checkpoint = config.checkpoint
        self.states = StateWriter(
            files.save_state,
            MonotonicClock(),
            every=checkpoint.state_every,
            every_s=checkpoint.state_every_s,
            written_step=self.optimizer.step,
        )
        self.watch = Watch(files, config, first_step=self.optimizer.step)
        self._layout: WeightLayout = start.layout
        self._directory = base
        is_hub_name = "/" in config.model and not Path(config.model).exists()
        self._base = config.model if is_hub_name else str(base)

    @property
    def has_stalled(self) -> bool:
        """Whether evaluations had no gain for so long that the job is to end."""
        return has_stalled(self.history, self.config)

    def keep_best(self) -> None:
        """Write the weights to best/ if the last evaluation is the best."""
        best = self.history.best
        if self.config.checkpoint.best and best is not None and best.step == self.optimizer.step:
            self.save(BEST)
            self.files.keep_best(best)

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
        ConfigError: the model has no layers of the configured names, the adapter to start from
            does not fit, or no weight has a name of `optimizer.no_decay`.
    """
    start = Trainable.adapter(directory, config).start_point
    start.layout.undecayed(config.optimizer.no_decay)
    return started_from(start, config.lora) if config.lora.start else start


def is_finished(files: JobFiles, state: AdamW | None, config: TrainConfig) -> bool:
    """Return whether a model made all its steps or stopped early, and was written."""
    if state is None or not (files.directory / "final").is_dir():
        return False
    return state.step >= config.optimizer.steps or has_stalled(RunHistory(files.metrics()), config)


def has_stalled(history: RunHistory, config: TrainConfig) -> bool:
    """Return whether a job's evaluations had no gain for so long that it is to end."""
    return history.has_stalled(config.early_stop.patience, config.early_stop.min_gain)
