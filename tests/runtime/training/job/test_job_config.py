"""A job's configuration is read, or rejected with the key."""

import dataclasses
import re
from dataclasses import replace
from pathlib import Path

import pytest

from runtime.errors import ConfigError
from runtime.training.job.config_file import keep_config, kept_config, load_config
from runtime.training.job.job_config import TrainConfig
from tests.support.rejection import rejected

GOOD = 'model = "m"\nout = "run"\n[data]\ntrain = "t.jsonl"\n'


def write(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "job.toml"
    file.write_text(text)
    return file


def test_a_file_with_settings_over_it(tmp_path: Path) -> None:
    file = write(tmp_path, GOOD + "[optimizer]\nlr = 1\nsteps = 5\n")
    config = load_config(file, ["optimizer.steps=7", "workers.scheme=frc-stream", "seed=3"])
    assert (config.optimizer.lr, config.optimizer.steps, config.seed) == (1.0, 7, 3)
    assert config.num_chunks == config.workers.count
    assert config.out == str(tmp_path / "run")
    assert config.data.train == str(tmp_path / "t.jsonl")


def test_words_stand_for_no_limit(tmp_path: Path) -> None:
    words = ["data.limit=all", "optimizer.clip=off", "workers.min=all", "checkpoint.keep=all"]
    config = load_config(write(tmp_path, GOOD), words)
    assert config == replace(
        load_config(write(tmp_path, GOOD)), optimizer=replace(config.optimizer, clip=None)
    )
    assert (config.data.limit, config.workers.min, config.checkpoint.keep) == (None, None, None)


def test_what_is_kept_is_read_again_from_anywhere(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, GOOD + "[lora]\ndropout = 0.1\n"), ["workers.min=1"])
    Path(config.out).mkdir()
    keep_config(config)
    assert kept_config(tmp_path / "run") == config
    assert kept_config(tmp_path / "run", ["workers.count=5"]).workers.count == 5
    with pytest.raises(ConfigError, match="holds no training job"):
        kept_config(tmp_path)


def test_epochs_become_steps_once_the_samples_are_counted(tmp_path: Path) -> None:
    file = write(tmp_path, GOOD + "[optimizer]\nepochs = 2.5\nbatch = 8\n")
    config = load_config(file).for_samples(20)
    assert (config.optimizer.steps, config.optimizer.epochs) == (7, None)
    assert load_config(file, ["optimizer.steps=3"]).for_samples(20).optimizer.steps == 3
    Path(config.out).mkdir()
    keep_config(config)
    assert kept_config(tmp_path / "run").for_samples(20) == config
    longer = kept_config(tmp_path / "run", ["optimizer.epochs=4"]).for_samples(20)
    assert longer.optimizer.steps == 10
    assert config.learning_part() == replace(config, out="x").learning_part()


def test_files_of_a_mix_are_relative_to_the_job_s(tmp_path: Path) -> None:
    text = GOOD.replace('train = "t.jsonl"', 'mix = { "a.jsonl" = 3, "sub/b.parquet" = 1.5 }')
    config = load_config(write(tmp_path, text))
    assert config.data.mix == {f"{tmp_path}/a.jsonl": 3.0, f"{tmp_path}/sub/b.parquet": 1.5}
    assert config.data.files == tuple(config.data.mix)
    assert "mix" not in load_config(write(tmp_path, GOOD)).learning_part()["data"]  # type: ignore[operator]


def test_preferences_are_part_of_what_is_learned(tmp_path: Path) -> None:
    plain = load_config(write(tmp_path, GOOD)).learning_part()
    assert not {"objective", "dpo"} & plain.keys()  # as older jobs
    prefers = load_config(write(tmp_path, GOOD), ["objective=dpo"])
    other = load_config(write(tmp_path, GOOD), ["objective=dpo", "dpo.beta=0.2"])
    assert prefers.learning_part() != other.learning_part() != plain


MIX = '[data]\nmix = { "a" = 1, "b" = 2 }\n'


@pytest.mark.parametrize(
    ("text", "settings", "message"),
    [
        (GOOD + "[optimizer]\nsteps = 3\nepochs = 1", [], "give optimizer.steps or optimizer.epo"),
        (
            GOOD + "[optimizer]\nepochs = 0",
            [],
            "optimizer.epochs is 0.0: it must be above 0, or off",
        ),
        (GOOD + 'mix = { "a" = 1 }', [], "give data.train or data.mix, not both"),
        (GOOD + 'learn = "first"', [], "data.learn is 'first': choose one of last, all"),
        (GOOD + "eval_limit = 0", [], "data.eval_limit is 0: it must be at least 1, or limit"),
        (
            GOOD.partition("[data]")[0] + MIX,
            ["data.mix.a=0"],
            "data.mix.a is 0.0: it must be above",
        ),
        (
            GOOD.partition("[data]")[0] + MIX,
            ["data.mix.a=5000"],
            "data.mix gives .*b less than a sample in 1000: raise its share, or leave it out",
        ),
        (
            GOOD,
            ["method=shared-seed", "data.learn=all"],
            'data.learn must be "last" with shared-se',
        ),
        (GOOD, ["method=shared-seed", "optimizer.epochs=1"], "give data.train and optimizer.steps"),
        ("model =", [], "not TOML"),
        (GOOD + "[optimizer]\nlearning_rate = 1", [], "unknown key optimizer.learning_rate"),
        (GOOD + "[optimiser]\nlr = 1", [], "unknown key optimiser; did you mean optimizer"),
        ("out = 'x'\n[data]\ntrain = 't'", [], "model is missing"),
        (GOOD, ["optimizer.lr=fast"], r"optimizer.lr is 'fast' \(str\): it must be a number"),
        (GOOD, ["optimizer.lr=0"], "optimizer.lr is 0.0: it must be above 0"),
        (GOOD, ["workers.scheme=push"], "workers.scheme is 'push': choose one of pull"),
        (GOOD, ["optimizer"], "settings 'optimizer': write section.key=value"),
        (GOOD, ["data=3"], r"data is a section: write \[data\]"),
        (GOOD, ["data.prompt=x"], "give both data.prompt and data.completion, or neither"),
        (GOOD, ["faults.slow=1.0"], r"faults.slow is 1.0: it must be at least 0 and below 1"),
        (
            GOOD,
            ["workers.scheme=frc-stream", "workers.count=20", "optimizer.batch=8"],
            "20 chunks of a batch of 8 would be smaller than a sample: optimizer.batch must "
            "be at least 20",
        ),
        (
            GOOD,
            ["workers.scheme=frc-stream", "workers.count=6", "workers.group=4"],
            "workers.group is 4: groups of 4 do not divide 6 workers evenly",
        ),
        (GOOD, ["workers.scheme=frc-2"], "s = 2 of 2 workers may be missing: take 0 to 1"),
        (
            GOOD,
            ["workers.scheme=frc-2", "workers.count=8"],
            "with 8 workers s can be 0, 1, 3, 7, not 2",
        ),
        (
            GOOD,
            ["workers.scheme=sr-sgc-2-4-1", "workers.count=8"],
            "with B = 2 the W next to 4 is 5",
        ),
        (GOOD, ["workers.scheme=roots-2", "workers.count=8"], "take s = 1 or s = 3"),
        (GOOD, ["lora.targets=q_proj"], r"lora.targets is 'q_proj': .* a list, as \[\"q_proj\"\]"),
        (GOOD, ["lora.targets=[1]"], r"lora.targets\[0\] is 1: it must be a string"),
        (GOOD, ["data.max_length=1"], "data.max_length is 1: it must be at least 2"),
        (GOOD, ["faults.factor=0.5"], "faults.factor is 0.5: it must be at least 1"),
        (GOOD, ["optimizer.clip=-1"], "optimizer.clip is -1.0: it must be above 0, or off"),
        (GOOD, ["workers.scheme=frc-1-2"], r"frc takes 1 number\(s\)"),
        (GOOD, ["workers.scheme=m-sgc-3-2-1"], "1 <= B < W is needed"),
        (GOOD, ["workers.scheme=m-sgc-1-2-9"], "lambda = 9: take 0 to the 2 workers"),
        (
            GOOD,
            ["workers.scheme=drop-2"],
            "2 of 2 cannot be dropped, one has to stay: choose 0 to 1",
        ),
        (
            GOOD,
            ["workers.scheme=m-sgc-1-2-1", "workers.count=4", "optimizer.batch=3"],
            "smaller than a sample: optimizer.batch must be at least",
        ),
        (GOOD, ["workers.min=3"], "workers.min is 3: it must be at most workers.count, 2"),
        (
            GOOD,
            ["workers.min=1", "workers.scheme=frc-1"],
            "s = 1 of 1 workers may be missing: take 0 to 0",
        ),
        (GOOD, ["precision=float16"], "precision is 'float16': choose one of float32, bfloat16"),
        (GOOD, ["lora.dropout=1.0"], r"lora.dropout is 1.0: it must be at least 0 and below 1"),
        (
            GOOD,
            ["method=shared-seed", "lora.rank_stabilized=true"],
            "lora.rank_stabilized is for method lora",
        ),
        (
            GOOD,
            ["lora.rank_pattern.q_proj=0"],
            "lora.rank_pattern.q_proj is 0: it must be at least 1",
        ),
        (GOOD, ["data.batching=random"], "choose one of padded, grouped, packed"),
        (GOOD, ["on_nonfinite=ignore"], "choose one of stop, skip"),
        (GOOD, ["on_divergence=skip"], "choose one of warn, stop"),
        (
            GOOD,
            ["early_stop.patience=0"],
            "early_stop.patience is 0: it must be at least 1, or off",
        ),
        (
            GOOD,
            ["early_stop.patience=3"],
            "early_stop.patience is 3, and nothing is evaluated: name",
        ),
        (GOOD, ["early_stop.min_gain=-1"], "early_stop.min_gain is -1.0: it must be at least 0"),
        (GOOD, ["watch.samples=2"], "watch.samples is 2, and nothing is evaluated: name a file in"),
        (GOOD, ["watch.sample_tokens=0"], "watch.sample_tokens is 0: it must be at least 1"),
        (GOOD, ["watch.wandb=true"], "watch.wandb is True: it must be a string"),
        (
            GOOD,
            ["optimizer.schedule=polynomial"],
            "choose one of constant, linear, cosine, cosine-",
        ),
        (GOOD, ["optimizer.cycles=3"], "optimizer.cycles is 3 and optimizer.schedule is 'cosine'"),
        (GOOD, ["optimizer.no_decay=['norm']"], "no weight does: set optimizer.weight_decay"),
        (
            GOOD,
            ["optimizer.weight_decay=0.1", "optimizer.no_decay=['(']"],
            r"optimizer.no_decay has '\(', which is no regular expression",
        ),
        (
            GOOD,
            ["method=shared-seed", "watch.mlflow=mine"],
            "watch.mlflow is 'mine': it is for methods lora and full",
        ),
        (
            GOOD,
            ["method=shared-seed", "data.eval=e.jsonl", "early_stop.patience=3"],
            "early_stop is for methods lora and full",
        ),
        (
            GOOD,
            ["method=shared-seed", "optimizer.schedule=cosine-restarts", "optimizer.cycles=2"],
            "optimizer.cycles and optimizer.no_decay are for methods lora and full",
        ),
        (GOOD, ["objective=ppo"], "objective is 'ppo': choose one of likelihood, dpo"),
        (GOOD, ["objective=dpo", "method=full"], 'only "lora" keeps the base'),
        (GOOD, ["objective=dpo", "method=shared-seed"], 'only "lora" keeps the base'),
        (GOOD, ["objective=dpo", "data.learn=all"], 'data.learn must be "last" with objective'),
        (GOOD, ["objective=dpo", "data.buffer=9"], 'data.buffer is for objective "likelihood"'),
        (
            GOOD,
            ["workers.tp=2", "data.eval=e.jsonl", "watch.samples=1"],
            "watch.samples is 1: with workers.tp above 1 it must be 0",
        ),
        (GOOD, ["dpo.beta=0"], "dpo.beta is 0.0: it must be above 0"),
        (GOOD, ["dpo.label_smoothing=0.5"], "dpo.label_smoothing is 0.5: .* below 0.5"),
        (GOOD, ["data.rejected=x"], 'data.rejected is for objective "dpo": set that'),
        (
            GOOD,
            ["objective=dpo", "data.prompt=x", "data.completion=y"],
            "give both data.completion and data.rejected",
        ),
        (GOOD, ["objective=dpo", "data.rejected=y"], "give both data.completion and data.rejected"),
        (
            GOOD,
            ["checkpoint.state_every_s=0"],
            "checkpoint.state_every_s is 0.0: it must be above 0",
        ),
        (GOOD, ["workers.empty_after_s=0"], "must be above 0"),
        (GOOD, ["workers.patience=0"], "must be above 0"),
    ],
)
def test_what_cannot_work_is_rejected(
    tmp_path: Path, text: str, settings: list[str], message: str
) -> None:
    with rejected(message):
        load_config(write(tmp_path, text), settings)


TEMPLATES = (
    GOOD + 'prompt = "{text}"\ncompletion = "{label}"\nwords = { label = ["bad", "good"] }\n'
)


def float_keys(section: object, prefix: str = "") -> list[str]:
    """Return the keys of all numbers with a fraction in a configuration."""
    found = []
    for part in dataclasses.fields(section):  # type: ignore[arg-type]  # a dataclass
        value = getattr(section, part.name)
        if dataclasses.is_dataclass(value):
            found += float_keys(value, f"{prefix}{part.name}.")
        elif isinstance(value, float):
            found.append(prefix + part.name)
    return found


FLOATS = float_keys(TrainConfig())


def test_all_sections_have_numbers_with_a_fraction() -> None:
    sections = {key.partition(".")[0] for key in FLOATS}
    assert sections == {
        "lora",
        "dpo",
        "early_stop",
        "optimizer",
        "workers",
        "faults",
        "shared_seed",
    }
    assert len(FLOATS) > 20


@pytest.mark.parametrize(
    ("text", "settings", "message"),
    [
        *(
            (GOOD, [f"{key}={value}"], f"{key} is {value}.*: it must be a finite number")
            for key in FLOATS
            for value in ("nan", "inf", "-inf")
        ),
        (GOOD, ["optimizer.lr=true"], "optimizer.lr is True: it must be a number"),
        (GOOD, ["optimizer.steps=5.0"], "optimizer.steps is 5.0 .*: it must be an integer"),
        (GOOD, ["optimizer.steps=true"], "optimizer.steps is True: it must be an integer"),
        (GOOD, ["gradient_checkpointing=1"], "gradient_checkpointing is 1: it must be true or"),
        (GOOD, ["model=2026-11-29"], "model is datetime.*: it must be a string"),
        (GOOD, ['lora.targets=[["q_proj"]]'], r"lora.targets\[0\] is .*: it must be a string"),
        (GOOD, ["seed=-1"], "seed is -1: it must be at least 0"),
        (GOOD, ["seed=9223372036854775808"], r"seed is 9223372036854775808: .* below 2\*\*63"),
        (GOOD, ["lora.alpha=0"], "lora.alpha is 0.0: it must be above 0"),
        (GOOD, ["faults.delay_s=-1"], "faults.delay_s is -1.0: it must be at least 0"),
        (TEMPLATES, ["data.words.label=abc"], "data.words.label is 'abc': write a list, as"),
        (TEMPLATES, ['data.words.label=["a", 1]'], r"data.words.label\[1\] is 1: it must be a str"),
        (TEMPLATES, ['data.words.label=["a"]'], "data.words.label is .*: give two words or more"),
        (TEMPLATES, ['data.words.label=["a", "a"]'], "two words or more, each once"),
        (
            TEMPLATES,
            ['data.words.labels=["a", "b"]'],
            r"data.words.labels: neither .* has {labels}",
        ),
        (
            TEMPLATES,
            ['data.words.text=["a", "b"]', 'data.completion="{label} {text}"'],
            r"data.completion has {label} and {text} of data.words: a completion is one choice",
        ),
        (TEMPLATES, ['data.prompt="{text:{width}"'], "data.prompt is .*unmatched '{'"),
        (TEMPLATES, ['data.prompt="{text.__class__}"'], "name a record's fields, as {question}"),
        (TEMPLATES, ['data.prompt="{text:{0}}"'], "name a record's fields, as {question}"),
        (GOOD, ["data.words.label=['a', 'b']"], r"data.words.label: neither .* has {label}"),
        (
            GOOD,
            ["data.among_choices=true"],
            "data.among_choices needs choices: words in data.words",
        ),
    ],
)
def test_values_that_would_be_bent_or_dropped_are_rejected(
    tmp_path: Path, text: str, settings: list[str], message: str
) -> None:
    with rejected(message):
        load_config(write(tmp_path, text), settings)


SEEDED = 'model = "m"\nout = "run"\nmethod = "shared-seed"\n[data]\ntrain = "t.jsonl"\n'


def test_a_shared_seed_job_may_have_no_workers_of_its_own(tmp_path: Path) -> None:
    file = write(tmp_path, SEEDED + '[workers]\ncount = 0\n[shared_seed]\ntls_cert = "c.pem"\n')
    config = load_config(file)
    assert config.workers.count == 0
    assert config.shared_seed.tls_cert == str(tmp_path / "c.pem")
    first = config.learning_part()
    assert load_config(file, ["shared_seed.rows=8"]).learning_part() == first
    assert load_config(file, ["shared_seed.eps=0.5"]).learning_part() != first


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        (
            "shared_seed.directions=0",
            "shared_seed.directions is 0: it must be at least 1 and at most",
        ),
        (
            "shared_seed.directions=65",
            "max_directions is 64: it must be at least shared_seed.directions, 65",
        ),
        ("shared_seed.sides=3", "shared_seed.sides is 3: it must be at least 1 and at most 2"),
        ("shared_seed.eps=0", "shared_seed.eps is 0.0: it must be above 0"),
        ("shared_seed.trim=-1.0", "shared_seed.trim is -1.0"),
        (
            "shared_seed.momentum=1.0",
            "shared_seed.momentum is 1.0: it must be at least 0 and below 1",
        ),
        ("shared_seed.weights=all", "shared_seed.weights is 'all': choose one of lora, linear"),
        ("shared_seed.hash_evry=2", "did you mean shared_seed.hash_every"),
        ("faults.lose=1.0", "faults.lose is 1.0"),
        ("workers.count=-1", "workers.count"),
    ],
)
def test_shared_seed_settings_that_cannot_work_are_rejected(
    tmp_path: Path, setting: str, words: str
) -> None:
    with rejected(re.escape(words)):
        load_config(write(tmp_path, SEEDED), [setting])


def test_a_pool_goes_with_neither_momentum_nor_decay(tmp_path: Path) -> None:
    for extra in ("shared_seed.momentum=0.5", "optimizer.weight_decay=0.1"):
        with pytest.raises(ConfigError, match="works with neither"):
            load_config(write(tmp_path, SEEDED), ["shared_seed.pool=8", extra])
    with pytest.raises(ConfigError, match="is for adapters"):
        load_config(write(tmp_path, SEEDED), ["shared_seed.pool=8", "shared_seed.weights=linear"])
    with pytest.raises(ConfigError, match=r"tls_key` needs `shared_seed\.tls_cert"):
        load_config(write(tmp_path, SEEDED), ["shared_seed.tls_key=k.pem"])
