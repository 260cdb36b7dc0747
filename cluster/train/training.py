"""`paceline train`: fine-tune a model, tolerating slow, hung and dead workers."""

import json
import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path

from rich.console import Console

from cluster.network.ray_session import RaySession
from cluster.options.paths import check_stays
from cluster.options.place_options import MIN_CPUS, PlaceOptions
from cluster.options.train_options import TrainOptions, TrainResumeOptions
from cluster.placement.placement import Need
from cluster.placement.reservation import Placer
from cluster.train.evaluator import Evaluator, show_samples
from cluster.train.job_inputs import JobInputs
from cluster.train.job_needs import check, needs_of, node_memory
from cluster.train.progress import JobProgress, StepDisplay, figures
from cluster.train.ray_pool import ModelPool
from cluster.train.sample_answers import SampleAnswers
from cluster.train.shared_seed_driver import run_shared_seed
from cluster.train.stopping import cancelling
from cluster.train.trackers import check_installed
from cluster.train.trial import BEST, Trial, adapter_start, is_finished
from parallel.training.adamw import AdamW
from parallel.training.run_history import LONG, RunHistory
from runtime.clock import MonotonicClock
from runtime.errors import PacelineError
from runtime.training.adapters.saving import step_name
from runtime.training.adapters.weight_layout import StartPoint
from runtime.training.job.config_file import keep_config, kept_config, load_config
from runtime.training.job.job_config import SHARED_SEED, TrainConfig
from runtime.training.job.job_lock import JobLock
from runtime.training.job_checkpoint import JobFiles
from runtime.training.scheme_plan import training_steps
from runtime.training.training_step import DivergedError, NotFiniteError, StepReport

_NOTES = Console(stderr=True, highlight=False)
_ROOM_S = 10.0
"""Seconds in which a cluster must have room for the workers."""


def run(options: TrainOptions) -> int:
    """Run or resume the job of a file; return the exit code.

    Raises:
        ConfigError: the configuration, the data or the job's directory cannot be used.
        PeerError: more workers were lost than the configuration allows.
    """
    config = load_config(options.config, options.settings)
    return _run_job(config, ray_address=options.ray_address, as_json=options.json)


def resume(options: TrainResumeOptions) -> int:
    """Resume the job in a directory; return the exit code, and raise as `run` does."""
    config = kept_config(options.directory, options.settings)
    return _run_job(config, ray_address=options.ray_address, as_json=options.json)


def _run_job(config: TrainConfig, *, ray_address: str | None, as_json: bool) -> int:
    check_stays(Path(config.out), "out", "with --set out=/DIRECTORY")
    with _warnings_shown(), JobLock(Path(config.out)) as lock:
        run_method = run_shared_seed if config.method == SHARED_SEED else _run_gradients
        return run_method(config, lock, ray_address=ray_address, as_json=as_json)


def _run_gradients(
    config: TrainConfig, lock: JobLock, *, ray_address: str | None, as_json: bool
) -> int:
    check_installed(config.watch)
    inputs = JobInputs.read(config)
    config, directory = inputs.config, inputs.directory
    digests = inputs.digests()
    configs = [config.trial(number) for number in range(config.num_trials)]
    starts: list[StartPoint] = []
    if config.method == "lora":
        starts = [adapter_start(directory, one) for one in configs]
        if config.lora.start:
            digests["start_digest"] = starts[0].digest
    files = [JobFiles(Path(one.out), one, **digests) for one in configs]
    states = [one.open() for one in files]
    keep_config(config)
    if all(is_finished(*one, config) for one in zip(files, states, strict=True)):
        assert states[0] is not None
        _say(f"{config.out} is finished: it made its {states[0].step} steps")
        return _report_end(files, as_json=as_json)
    if not as_json:
        show_samples(inputs.learned.examples, inputs.learned.first, inputs.tokenizer)
    _say(_opening(config, starts, states, len(inputs.learned.samples)))
    for note in inputs.notes:
        _say(note)
    num_trained = starts[0].layout.size if starts else None
    needs = needs_of(config, directory, inputs.learned.known_sizes, num_trained)
    with RaySession(ray_address, num_actors=config.workers.count * config.workers.tp):
        check(needs, config, node_memory(ray_address))
        _check_room(config, wait_s=0.0 if ray_address is None else _ROOM_S)
        pool = ModelPool(directory, config, inputs.learned.samples)
        try:
            with _NOTES.status("loading the model on the workers"):
                pool.wait_ready(config.workers.min or config.workers.count)
            starts = starts or [pool.start_point()] * len(configs)
            parts = zip(configs, files, starts, states, strict=True)
            trials = [Trial(*part, base=directory) for part in parts]
            with cancelling(lock, _NOTES.print):
                _train(config, trials, pool, inputs, lock)
        finally:
            pool.close()
    step = min(trial.optimizer.step for trial in trials)
    if lock.is_cancelled and step < config.optimizer.steps:
        return _report_cancelled(config, step, as_json=as_json)
    return _report_end(files, as_json=as_json)


def _report_cancelled(config: TrainConfig, step: int, *, as_json: bool) -> int:
    """Print how far a job came, and how to continue it; return 1."""
    if as_json:
        print(json.dumps({"out": config.out, "cancelled": True, "step": step}))
    _NOTES.print(f"cancelled after step {step}; resume with paceline train resume {config.out}")
    return 1


def _report_end(files: Sequence[JobFiles], *, as_json: bool) -> int:
    """Print where the results of finished models are, and their last metrics; return 0."""
    for one in files:
        lines, where = one.metrics(), one.directory / "final"
        if as_json:
            print(json.dumps({"out": str(where)} | lines[-1]))
            continue
        history = RunHistory(lines)
        _NOTES.print(f"{where}: {figures(lines[-1])}")
        if history.is_diverging:
            _say(f"WARNING: the loss ended far above its start, {history.start:.3g}")
        best = history.best
        if best is not None and best.step < lines[-1]["step"] and (one.directory / BEST).is_dir():
            _say(f"{one.directory / BEST}: step {best.step}, {best.name} {best.value:g}")
    return 0


def _say(text: str) -> None:
    _NOTES.print(text, markup=False, soft_wrap=True)


def _check_room(config: TrainConfig, *, wait_s: float) -> None:
    """Raise ConfigError if the nodes have no room for the workers, before any is started."""
    workers = config.workers
    if workers.cpus > 0 or workers.gpus > 0:
        num_ranks = (workers.min or workers.count) * workers.tp
        least = Need(role="workers", size=num_ranks, gpus=workers.gpus)
        place = PlaceOptions(cpus=max(workers.cpus, MIN_CPUS), wait_s=wait_s)
        Placer(place).plan([least], lambda text: _NOTES.print(text))


def _train(
    config: TrainConfig,
    trials: Sequence[Trial],
    pool: ModelPool,
    inputs: JobInputs,
    lock: JobLock,
) -> None:
    judge, answers = _judges(inputs, pool)
    steps = config.optimizer.steps
    done = sum(trial.optimizer.step for trial in trials)
    with JobProgress(steps * len(trials), done, console=_NOTES) as progress:
        show = StepDisplay(progress, done)
        for trial in trials:
            if trial.optimizer.step == 0 and judge.has_tests:
                show.note(f"before: {figures(_judged(trial, judge))}")
            if trial.optimizer.step == steps and not is_finished(
                trial.files, trial.optimizer, config
            ):  # it was cut, or its result was removed since
                _judged(trial, judge, is_result=True)
                trial.save("final")
        reports = training_steps(
            config,
            [trial.optimizer for trial in trials],
            pool,
            inputs.learned.sizes,
            MonotonicClock(),
            choice=trials[0].files.choice(),
            keep=trials[0].files.keep_choice,
            note=show.note,
        )
        try:
            while not lock.is_cancelled and not _have_stalled(trials):
                if (report := next(reports, None)) is None:
                    break
                _end_step(config, trials, report, judge, answers, show)
            if _have_stalled(trials):
                _end_early(trials, show)
            _finish_states(trials)
        except PacelineError:
            _finish_states(trials)
            raise
        except OSError as error:
            step = min(trial.optimizer.step for trial in trials)
            raise PacelineError(
                f"step {step} could not be written to {config.out}: {error.strerror or error}. "
                f"Make room, then continue with paceline train resume {config.out}"
            ) from error
        finally:
            for trial in trials:
                trial.states.wait()
                trial.watch.close()


def _judges(inputs: JobInputs, pool: ModelPool) -> tuple[Evaluator, SampleAnswers]:
    """Return what evaluates the weights, and what shows some of their answers."""
    config, tests = inputs.config, inputs.tests
    preferences = pool.preferences if config.prefers else None
    judge = Evaluator(tests, pool, learned=inputs.learned.first, preferences=preferences)
    watch, ends = config.watch, inputs.tokenizer.eos_ids
    answerer = partial(pool.answers, ends=ends, max_tokens=watch.sample_tokens)
    return judge, SampleAnswers(tests.samples[: watch.samples], inputs.tokenizer, answerer)


def _have_stalled(trials: Sequence[Trial]) -> bool:
    """Return whether the evaluations of all models have had no gain for long."""
    return all(trial.has_stalled for trial in trials)


def _end_early(trials: Sequence[Trial], show: StepDisplay) -> None:
    """Write the results of models that stopped before their last step, and say why."""
    for trial in trials:
        if trial.optimizer.step == trial.config.optimizer.steps:
            continue
        last = trial.history.last_gain(trial.config.early_stop.min_gain)
        assert last is not None
        trial.save("final")
        show.note(
            f"stopped early after step {trial.optimizer.step}: {last.name} has not been better "
            f"than {last.value:g}, at step {last.step}, in {trial.history.evaluations_since(last)} "
            "evaluations"
        )


def _finish_states(trials: Sequence[Trial]) -> None:
    """Wait until the last state of every model is written."""
    for trial in trials:
        trial.states.finish(trial.optimizer)


def _end_step(
    config: TrainConfig,
    trials: Sequence[Trial],
    report: StepReport,
    judge: Evaluator,
    answers: SampleAnswers,
    show: StepDisplay,
) -> None:
    """Evaluate, and write what is due after a step."""
    trial = trials[report.trial]
    at_end = report.step == config.optimizer.steps
    judged = report.step % config.eval_every == 0 or at_end
    measured = _judged(trial, judge, is_result=at_end) if judged else {}
    trial.files.add_metrics(report, measured)
    trial.history.add(asdict(report) | measured)
    trial.watch.step(report, measured)
    if judged:
        trial.watch.chart()
        said = answers.at(report.step, trial.optimizer.parameters)
        trial.watch.answers(said)
        for one in said:
            show.note(f"step {report.step}{_which(report, trials)}: {one}")
    _check_divergence(trial, show)
    if measured:
        trial.keep_best()
    if at_end or report.step % config.checkpoint.every == 0:
        trial.save("final" if at_end else step_name(report.step))
    # Last, because a resumed run repeats what comes after its last state.
    trial.states.after_step(trial.optimizer)
    show.step(report)
    if measured:
        show.note(f"step {report.step}{_which(report, trials)}: {figures(measured)}")


def _check_divergence(trial: Trial, show: StepDisplay) -> None:
    """Say once that a model diverges.

    Raises:
        DivergedError: it does, and the job is to stop then.
    """
    if not trial.history.is_diverging or trial.is_known_to_diverge:
        return
    trial.is_known_to_diverge = True
    why = (
        f"step {trial.optimizer.step}: the model diverges: its loss has been far above its start, "
        f"{trial.history.start:.3g}, for {LONG} steps"
    )
    if trial.config.on_divergence == "stop":
        raise DivergedError(
            f"{why}. Train with a lower `optimizer.lr` in another `out`, or resume with "
            '`on_divergence` "warn"'
        )
    show.note(f"WARNING: {why}. Cancel the job, and train with a lower optimizer.lr")


def _judged(trial: Trial, judge: Evaluator, *, is_result: bool = False) -> dict[str, float]:
    """Return the metrics of a model's weights.

    Raises:
        NotFiniteError: one is not finite; for the job's result, also the loss of a few samples.
    """
    measured = judge(trial.optimizer.parameters)
    checked = dict(measured)
    if is_result and not judge.has_tests:
        checked["the loss"] = judge.loss_of_some(trial.optimizer.parameters)
    if bad := [name for name, value in checked.items() if not math.isfinite(value)]:
        raise NotFiniteError(
            f"after step {trial.optimizer.step}, {' and '.join(bad)} is not finite. The state is "
            f"kept in {trial.files.directory}; train with a lower `optimizer.lr` in another `out`"
        )
    return measured


def _which(report: StepReport, trials: Sequence[Trial]) -> str:
    return f" of trial {report.trial}" if len(trials) > 1 else ""


def _opening(
    config: TrainConfig,
    starts: Sequence[StartPoint],
    states: Sequence[AdamW | None],
    num_samples: int,
) -> str:
    done = 0 if states[0] is None else states[0].step
    going_on = f"continuing after step {done}" if done else "starting"
    kind = "lora by preferences" if config.prefers else config.method
    workers, models = config.workers, f"{len(states)} models in turn, " if len(states) > 1 else ""
    ranks = f" of {workers.tp} ranks" if workers.tp > 1 else ""
    trained = f"{starts[0].layout.size:,} trained weights" if starts else "all weights trained"
    return (
        f"{going_on}: {models}{kind} of {config.model}, "
        f"{trained}, {num_samples:,} samples, {config.optimizer.steps} steps of "
        f"{config.optimizer.batch} in {config.num_chunks} chunks, "
        f"{workers.count} workers{ranks}, scheme {workers.scheme}"
    )


class _NotesHandler(logging.Handler):
    """Prints log messages above the progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        _NOTES.print(record.getMessage(), markup=False)


@contextmanager
def _warnings_shown() -> Iterator[None]:
    """Print warnings about lost workers and damaged files."""
    logger, handler = logging.getLogger("paceline.train"), _NotesHandler()
    logger.addHandler(handler)
    propagate, logger.propagate = logger.propagate, False
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.propagate = propagate
        logger.removeHandler(handler)
