"""Derives the settings of sequencer and workers from a job's configuration."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from runtime.checking.tables import make
from runtime.errors import ConfigError
from runtime.files.strict_json import parse_object
from runtime.models.checkpoint_files import read_checkpoint
from runtime.training.job.job_config import DataConfig, TrainConfig
from runtime.training.job.shared_seed_settings import Terms
from runtime.training.shared_seed.points import PointsModel
from runtime.training.shared_seed.seed_log import Header, Records, SeedLog, read_log
from runtime.training.shared_seed.sequencer import Rules
from runtime.weights.checkpoint_source import CheckpointSource
from runtime.weights.stored_tensors import is_converted_file

LOG, SNAPSHOT = "seeds.log", "snapshot"


def model_digest(directory: Path) -> bytes:
    """Return the SHA-256 of a checkpoint's weights, by name.

    Raises:
        ConfigError: the checkpoint cannot be used.
    """
    files = read_checkpoint(directory)
    source = CheckpointSource(directory, "float32", torch.device("cpu"), tensors=files.tensors)
    whole = hashlib.sha256()
    for file in sorted({entry.file for entry in files.tensors.values()}):
        # The numbers of a converted file, whatever the format that a version converts to.
        is_converted = is_converted_file(file)
        with safe_open(file, framework="pt") as opened:
            names = [name for name, entry in files.tensors.items() if entry.file == file]
            for name in sorted(names):
                tensor: Tensor = source.read(name) if is_converted else opened.get_tensor(name)
                tensor = tensor.contiguous()
                whole.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
                whole.update(tensor.view(-1).view(torch.uint8).numpy().data)
    return whole.digest()


def header_of(config: TrainConfig, directory: Path) -> Header:
    """Return the header of a new run; loads the model's shapes.

    Raises:
        ConfigError: the model has no layers of the configured names.
    """
    section = config.shared_seed
    header = Header(
        seed=config.seed,
        model=config.model,
        model_digest=model_digest(directory),
        size=0,
        eps=float(np.float32(section.eps)),
        weights=section.weights,
        rank=config.lora.rank,
        alpha=float(np.float32(config.lora.alpha)),
        targets=list(config.lora.targets),
        direction_rank=section.direction_rank,
        pool=section.pool,
        hash_every=section.hash_every,
    )
    size = PointsModel.load(directory, header, empty=True).points.space.size
    return Header(**asdict(header) | {"size": size})


def rules_of(config: TrainConfig) -> Rules:
    """Return the rules for closing the run's rounds."""
    section, optimizer = config.shared_seed, config.optimizer
    return Rules(
        rounds=optimizer.steps,
        lr=optimizer.lr,
        warmup=optimizer.warmup,
        schedule=optimizer.schedule,
        weight_decay=optimizer.weight_decay,
        momentum=section.momentum,
        normalise=section.normalise,
        steady_scalars=section.steady_scalars,
        quorum=section.quorum,
        deadline_s=section.deadline_s,
        patience=config.workers.patience,
        alive_s=section.alive_s,
        late_rounds=section.late_rounds,
        max_scalars=section.max_directions,
        trim=section.trim,
    )


def terms_of(config: TrainConfig) -> Terms:
    """Return the workers' terms."""
    section, data = config.shared_seed, config.data
    return Terms(
        directions=section.directions,
        sides=section.sides,
        rows=section.rows,
        batch=config.optimizer.batch,
        by_reward=bool(section.reward),
        max_answer=section.max_answer,
        max_length=data.max_length,
        prompt=data.prompt,
        completion=data.completion,
        words=data.words,
        among_choices=data.among_choices,
    )


def terms_to_json(terms: Terms) -> str:
    """Return terms as a JSON object."""
    return json.dumps(asdict(terms))


def terms_from_json(text: str) -> Terms:
    """Return the terms in a JSON object; raise ConfigError if it has none."""
    try:
        return make(Terms, parse_object(text, "terms"))
    except ConfigError as error:
        raise ConfigError(f"the sequencer's terms cannot be read: {error}") from error


def data_of(terms: Terms, train: Path) -> DataConfig:
    """Return the data configuration of a worker's own file."""
    return DataConfig(
        train=str(train),
        prompt=terms.prompt,
        completion=terms.completion,
        words=terms.words,
        among_choices=terms.among_choices,
        max_length=terms.max_length,
    )


def open_log(path: Path, header: Header) -> tuple[SeedLog, Records]:
    """Create a run's log, or open it to continue.

    Raises:
        ConfigError: it is damaged, or of a run with other settings.
    """
    if not path.exists():
        return SeedLog.create(path, header), Records(header)
    records = read_log(path)
    if records.header != header:
        mine, its = asdict(header), asdict(records.header)
        changed = [f"{n}: {its[n]!r} became {mine[n]!r}" for n in mine if mine[n] != its[n]]
        raise ConfigError(f"{path} belongs to a run with other settings ({', '.join(changed)})")
    return SeedLog(path, records), records
