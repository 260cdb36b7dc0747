"""Measures training points with real actors, messages and schemes; computing is a timed wait."""

from collections.abc import Sequence

from cluster.bench.training_bench import job_config, measure_scheme
from cluster.experiment.experiment_config import Experiment
from cluster.experiment.store import MeasuredPoint
from cluster.experiment.sweep_points import TrainPoint
from cluster.options.bench_options import BenchTrainOptions
from runtime.errors import ConfigError


class TrainBench:
    """Runs training points, each on separate workers."""

    def __init__(self, experiment: Experiment, points: Sequence[TrainPoint]) -> None:
        """Check every point.

        Raises:
            ConfigError: a point cannot run; the message names it. Nothing was started.
        """
        self._experiment = experiment
        self.num_actors = max((point.workers for point in points), default=1)
        for point in points:
            self._check(point)

    def measure(self, point: TrainPoint, repeat: int) -> MeasuredPoint:
        """Measure a run of a point.

        Raises:
            PacelineError: the measurement failed.
        """
        options = self._options(point)
        config = job_config(options, point.scheme)
        row = measure_scheme(options, config, point.scheme, point.factor)
        return MeasuredPoint(
            key=point.key,
            repeat=repeat,
            rate=round(options.batch / row.seconds, 4),
            wall_s=round(row.seconds * options.steps, 4),
            figures={
                "step_s": row.seconds,
                "p90_ratio": row.p90_ratio,
                "late": row.late,
                "lost": float(row.lost),
            },
        )

    def _check(self, point: TrainPoint) -> None:
        options = self._options(point)
        if options.batch < point.workers:
            raise ConfigError(
                f"point {point.key}: train.batch is {options.batch}, less than one sample for "
                f"each of {point.workers} workers: raise train.batch"
            )
        try:
            job_config(options, point.scheme)
        except ConfigError as error:
            raise ConfigError(f"point {point.key}: sweep.scheme: {error}") from error

    def _options(self, point: TrainPoint) -> BenchTrainOptions:
        train = self._experiment.train
        assert train is not None
        return BenchTrainOptions(
            workers=point.workers,
            schemes=(point.scheme,),
            factors=(point.factor,),
            slow=train.slow,
            steps=train.steps,
            batch=train.batch,
            step_s=train.sample * train.batch / point.workers,
            patience=train.patience,
            seed=train.seed,
            ray_address=self._experiment.ray,
        )
