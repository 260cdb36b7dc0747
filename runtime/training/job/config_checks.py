"""Refuses a training job that cannot work, before anything starts; each error names the key."""

from dataclasses import replace
from string import Formatter

from parallel.training.gradient_coding.queue_schedules import ChunkTimes
from parallel.training.gradient_coding.schemes import smallest_batch
from runtime.errors import ConfigError
from runtime.training.job.job_config import (
    METHODS,
    PRECISIONS,
    SCHEDULES,
    SHARED_SEED,
    DataConfig,
    TrainConfig,
)
from runtime.training.job.shared_seed_settings import check_shared_seed

_MOST_SEED = 2**63 - 1
_FEWEST_WORDS = 2


def check_config(config: TrainConfig) -> None:
    """Refuse what cannot work.

    Raises:
        ConfigError: names the key.
    """
    _check_texts(config)
    _check_counts(config)
    _check_shares(config)
    check_data(config.data)
    if config.method == SHARED_SEED:
        check_shared_seed(config.shared_seed, decays=config.optimizer.weight_decay > 0)
    else:
        _check_scheme(config)


def check_data(data: DataConfig) -> None:
    """Refuse templates and words that do not go together.

    Raises:
        ConfigError: names the key.
    """
    if bool(data.prompt) != bool(data.completion):
        raise ConfigError("data.prompt and data.completion go together: give both or neither")
    prompt, completion = (
        template_fields(getattr(data, name), f"data.{name}") for name in ("prompt", "completion")
    )
    for name, words in data.words.items():
        if name not in prompt | completion:
            raise ConfigError(
                f"data.words.{name}: neither data.prompt nor data.completion has {{{name}}}"
            )
        if len(set(words)) < max(_FEWEST_WORDS, len(words)):
            raise ConfigError(f"data.words.{name} is {words}: give two words or more, each once")
    chosen = sorted(completion & data.words.keys())
    if len(chosen) > 1:
        raise ConfigError(
            f"data.completion has {' and '.join(f'{{{name}}}' for name in chosen)} of data.words: "
            "a completion is one choice"
        )
    if data.among_choices and not chosen:
        raise ConfigError(
            "data.among_choices needs choices: words in data.words for a field of data.completion"
        )


def template_fields(template: str, key: str) -> set[str]:
    """Return the names of the record fields that a template uses.

    Raises:
        ConfigError: it is no template, or names anything but fields.
    """
    named: set[str] = set()
    try:
        for _, field, spec, _ in Formatter().parse(template):
            if field is not None:
                named.add(field)
                named |= template_fields(spec or "", key)
    except ValueError as error:
        raise ConfigError(f"{key} is {template!r}: {error}; {{{{ is a plain {{") from error
    if any(not field or field.isdecimal() or set(field) & set(".[") for field in named):
        raise ConfigError(f"{key} is {template!r}: name a record's fields, as {{question}}")
    return named


def _check_texts(config: TrainConfig) -> None:
    for name, text in (
        ("model", config.model),
        ("out", config.out),
        ("data.train", config.data.train),
    ):
        if not text:
            raise ConfigError(f"{name} is missing from the configuration")
    choices = (
        ("method", config.method, METHODS),
        ("optimizer.schedule", config.optimizer.schedule, SCHEDULES),
        ("precision", config.precision, PRECISIONS),
    )
    for name, text, known in choices:
        if text not in known:
            raise ConfigError(f"{name} is {text!r}: choose one of {', '.join(known)}")


def _check_counts(config: TrainConfig) -> None:
    optimizer, workers = config.optimizer, config.workers
    not_below = (
        ("optimizer.steps", optimizer.steps, 1),
        ("optimizer.batch", optimizer.batch, 1),
        ("optimizer.microbatch", optimizer.microbatch, 1),
        # A shared-seed job may have none of its own: others may join.
        ("workers.count", workers.count, 0 if config.method == SHARED_SEED else 1),
        ("workers.group", workers.group, 1),
        ("workers.profile", workers.profile, 1),
        ("workers.threads", workers.threads, 1),
        ("lora.rank", config.lora.rank, 1),
        ("checkpoint.every", config.checkpoint.every, 1),
        ("checkpoint.state_every", config.checkpoint.state_every, 1),
        ("eval_every", config.eval_every, 1),
        ("data.max_length", config.data.max_length, 2),
        ("optimizer.weight_decay", optimizer.weight_decay, 0),
        ("optimizer.clip", optimizer.clip, 0),
        ("data.limit", config.data.limit, 0),
        ("checkpoint.keep", config.checkpoint.keep, 0),
        ("workers.max_losses", workers.max_losses, 0),
        ("workers.cpus", workers.cpus, 0),
        ("workers.gpus", workers.gpus, 0),
        ("faults.factor", config.faults.factor, 1),
        ("faults.delay_s", config.faults.delay_s, 0),
        ("seed", config.seed, 0),
    )
    for name, value, least in not_below:
        if not value >= least:
            raise ConfigError(f"{name} is {value}: at least {least} is needed")
    if config.seed > _MOST_SEED:
        raise ConfigError(f"seed is {config.seed}: it must be below 2**63")
    above_zero = (
        ("optimizer.lr", optimizer.lr),
        ("lora.alpha", config.lora.alpha),
        ("workers.lost_after_s", workers.lost_after_s),
        ("workers.empty_after_s", workers.empty_after_s),
        ("workers.patience", workers.patience),
    )
    for name, value in above_zero:
        if not value > 0:
            raise ConfigError(f"{name} is {value}: it must be above 0")
    if not 0 <= workers.min <= workers.count:
        raise ConfigError(
            f"workers.min is {workers.min}: it must be from 0 to workers.count, {workers.count}"
        )


def _check_shares(config: TrainConfig) -> None:
    optimizer, faults = config.optimizer, config.faults
    shares = (
        ("optimizer.warmup", optimizer.warmup),
        ("optimizer.beta1", optimizer.beta1),
        ("optimizer.beta2", optimizer.beta2),
        ("lora.dropout", config.lora.dropout),
        ("faults.slow", faults.slow),
        ("faults.hang", faults.hang),
        ("faults.kill", faults.kill),
        ("faults.lose", faults.lose),
        ("faults.repeat", faults.repeat),
    )
    for name, share in shares:
        if not 0 <= share < 1:
            raise ConfigError(f"{name} is {share}: it must be in [0, 1)")


def _check_scheme(config: TrainConfig) -> None:
    optimizer, workers = config.optimizer, config.workers
    scheme = config.round_scheme
    least = config.num_chunks
    if scheme is not None:
        least = smallest_batch(scheme)
        if workers.min:
            _ = replace(config, workers=replace(workers, count=workers.min, min=0)).round_scheme
    if least > optimizer.batch:
        raise ConfigError(
            f"{config.num_chunks} chunks of a batch of {optimizer.batch} would be smaller than a "
            f"sample: take optimizer.batch of at least {least}"
        )
    if config.is_queued:
        config.queue_schedule(workers.count, ChunkTimes())
