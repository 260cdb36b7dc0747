"""Reject a training job whose values do not fit together; each error names the keys.

The range of a single value is in the type of its field.
"""

import re
from dataclasses import replace
from string import Formatter

from parallel.training.gradient_coding.queue_schedules import ChunkTimes
from parallel.training.gradient_coding.schemes import smallest_batch
from parallel.training.sampler import MIX_PERIOD
from runtime.errors import ConfigError
from runtime.training.job.job_config import (
    SHARED_SEED,
    DataConfig,
    LoraConfig,
    OptimizerConfig,
    TrainConfig,
)
from runtime.training.job.shared_seed_settings import check_shared_seed

_FEWEST_WORDS = 2
_MAX_SEED = 2**63 - 1


def check_config(config: TrainConfig) -> None:
    """Raise ConfigError for a job that cannot work.

    Raises:
        ConfigError: names the key.
    """
    _check_names(config)
    _check_numbers(config)
    _check_ranks(config)
    if config.base_precision != "float32" and config.method != "lora":
        raise ConfigError(
            f"`base_precision` is {config.base_precision}: with method {config.method} it must be "
            'float32; take `method` "lora"'
        )
    check_data(config.data)
    _check_objective(config)
    _check_optimizer(config.optimizer)
    _check_evaluated(config)
    if config.method == SHARED_SEED:
        _check_shared_seed_adapter(config.lora)
        if config.data.learn == "all":
            raise ConfigError('`data.learn` must be "last" with shared-seed')
        if config.data.buffer is not None:
            raise ConfigError("`data.buffer` is for lora and full: leave it out with shared-seed")
        if config.data.mix or config.optimizer.epochs is not None:
            raise ConfigError("give `data.train` and `optimizer.steps` with shared-seed")
        _check_shared_seed_watch(config)
        if config.optimizer.cycles > 1 or config.optimizer.no_decay:
            raise ConfigError(
                "`optimizer.cycles` and `optimizer.no_decay` are for methods lora and full: leave "
                "them out with shared-seed"
            )
        check_shared_seed(config.shared_seed, decays=config.optimizer.weight_decay > 0)
    else:
        _check_scheme(config)


def _check_objective(config: TrainConfig) -> None:
    data = config.data
    if not config.prefers:
        if data.rejected:
            raise ConfigError('`data.rejected` is for `objective` "dpo": set that, or leave it out')
        return
    if config.method != "lora":
        raise ConfigError(
            f'`objective` is "dpo" and `method` is {config.method!r}: only "lora" keeps the base '
            "model, which is the reference of the preferences"
        )
    if data.learn == "all":
        raise ConfigError('`data.learn` must be "last" with `objective` "dpo"')
    if data.buffer is not None:
        raise ConfigError('`data.buffer` is for `objective` "likelihood": leave it out')
    if data.among_choices:
        raise ConfigError('`data.among_choices` is for `objective` "likelihood": leave it out')
    if bool(data.completion) != bool(data.rejected):
        raise ConfigError(
            'give both `data.completion` and `data.rejected` with `objective` "dpo", or neither'
        )


def _check_evaluated(config: TrainConfig) -> None:
    if config.data.eval:
        return
    for name, value in (
        ("early_stop.patience", config.early_stop.patience),
        ("watch.samples", config.watch.samples),
    ):
        if value:
            raise ConfigError(
                f"`{name}` is {value}, and nothing is evaluated: name a file in `data.eval`"
            )


def _check_optimizer(optimizer: OptimizerConfig) -> None:
    if optimizer.cycles > 1 and optimizer.schedule != "cosine-restarts":
        raise ConfigError(
            f"`optimizer.cycles` is {optimizer.cycles} and `optimizer.schedule` is "
            f'{optimizer.schedule!r}: set that to "cosine-restarts", or leave cycles out'
        )
    if optimizer.no_decay and optimizer.weight_decay == 0:
        raise ConfigError(
            "`optimizer.no_decay` names weights that do not decay, and no weight does: set "
            "`optimizer.weight_decay`, or leave it out"
        )
    for pattern in optimizer.no_decay:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ConfigError(
                f"`optimizer.no_decay` has {pattern!r}, which is no regular expression: {error}"
            ) from error


def check_data(data: DataConfig) -> None:
    """Raise ConfigError for templates and words that do not fit together.

    Raises:
        ConfigError: names the key.
    """
    if data.learn == "all" and data.prompt:
        raise ConfigError(
            '`data.learn` is "all", for conversations: leave it out, or remove `data.prompt` and '
            "`data.completion`"
        )
    if bool(data.prompt) != bool(data.completion):
        raise ConfigError("give both `data.prompt` and `data.completion`, or neither")
    prompt, completion, rejected = (
        template_fields(getattr(data, name), f"data.{name}")
        for name in ("prompt", "completion", "rejected")
    )
    for name, words in data.words.items():
        if name not in prompt | completion | rejected:
            raise ConfigError(
                f"`data.words.{name}`: neither `data.prompt` nor `data.completion` has {{{name}}}"
            )
        if len(set(words)) < max(_FEWEST_WORDS, len(words)):
            raise ConfigError(f"`data.words.{name}` is {words}: give two words or more, each once")
    chosen = sorted(completion & data.words.keys())
    if len(chosen) > 1:
        raise ConfigError(
            f"`data.completion` has {' and '.join(f'{{{name}}}' for name in chosen)} of "
            "`data.words`: a completion is one choice"
        )
    if data.among_choices and not chosen:
        raise ConfigError(
            "`data.among_choices` needs choices: words in `data.words` for a field of "
            "`data.completion`"
        )


def template_fields(template: str, key: str) -> set[str]:
    """Return the names of the record fields that a template uses.

    Raises:
        ConfigError: it is not a template, or names anything but fields.
    """
    named: set[str] = set()
    try:
        for _, field, spec, _ in Formatter().parse(template):
            if field is not None:
                named.add(field)
                named |= template_fields(spec or "", key)
    except ValueError as error:
        raise ConfigError(f"`{key}` is {template!r}: {error}; {{{{ is a plain {{") from error
    if any(not field or field.isdecimal() or set(field) & set(".[") for field in named):
        raise ConfigError(f"`{key}` is {template!r}: name a record's fields, as {{question}}")
    return named


def _check_names(config: TrainConfig) -> None:
    data = config.data
    named = {"model": config.model, "out": config.out, "data.train": data.train or data.mix}
    for name, value in named.items():
        if not value:
            raise ConfigError(f"`{name}` is missing from the configuration")
    if data.train and data.mix:
        raise ConfigError("give `data.train` or `data.mix`, not both")
    for name, share in data.mix.items():
        if share / sum(data.mix.values()) < 1 / MIX_PERIOD:
            raise ConfigError(
                f"`data.mix` gives {name} less than a sample in {MIX_PERIOD}: raise its share, or "
                "leave it out"
            )


def _check_numbers(config: TrainConfig) -> None:
    workers = config.workers
    if config.seed > _MAX_SEED:
        raise ConfigError(f"`seed` is {config.seed}: it must be below 2**63")
    if workers.count < 1 and config.method != SHARED_SEED:
        raise ConfigError(f"`workers.count` is {workers.count}: it must be at least 1")
    if (workers.min or 0) > workers.count:
        raise ConfigError(
            f"`workers.min` is {workers.min}: it must be at most `workers.count`, {workers.count}"
        )


def _check_ranks(config: TrainConfig) -> None:
    """Reject groups of ranks where a worker has to be one process."""
    workers = config.workers
    if workers.tp == 1:
        return
    if config.method == SHARED_SEED:
        raise ConfigError(f"`workers.tp` is {workers.tp}: with shared-seed it must be 1")
    if config.watch.samples:
        raise ConfigError(
            f"`watch.samples` is {config.watch.samples}: with `workers.tp` above 1 it must be 0, "
            "because ranks do not answer prompts"
        )
    if workers.gpus > 0:
        raise ConfigError(
            f"`workers.tp` is {workers.tp}: with `workers.gpus` it must be 1, because ranks on "
            "GPUs are not supported yet"
        )


def _check_shared_seed_adapter(lora: LoraConfig) -> None:
    for name in ("rank_stabilized", "dora", "rank_pattern", "alpha_pattern", "start"):
        if getattr(lora, name):
            raise ConfigError(f"`lora.{name}` is for method lora: leave it out with shared-seed")


def _check_shared_seed_watch(config: TrainConfig) -> None:
    if config.early_stop.patience is not None:
        raise ConfigError("`early_stop` is for methods lora and full: leave it out")
    for name in ("wandb", "mlflow", "samples"):
        if value := getattr(config.watch, name):
            raise ConfigError(
                f"`watch.{name}` is {value!r}: it is for methods lora and full, leave it out"
            )


def _check_scheme(config: TrainConfig) -> None:
    optimizer, workers = config.optimizer, config.workers
    scheme = config.round_scheme
    least = config.num_chunks
    if scheme is not None:
        least = smallest_batch(scheme)
        if workers.min:
            _ = replace(config, workers=replace(workers, count=workers.min, min=None)).round_scheme
    if least > optimizer.batch:
        raise ConfigError(
            f"{config.num_chunks} chunks of a batch of {optimizer.batch} would be smaller than a "
            f"sample: `optimizer.batch` must be at least {least}"
        )
    if config.is_queued:
        config.queue_schedule(workers.count, ChunkTimes())
