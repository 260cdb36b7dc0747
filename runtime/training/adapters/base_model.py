"""The model to train, as transformers loads it."""

from pathlib import Path
from threading import Lock

import torch
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from runtime.models.checkpoint_files import read_model_config
from runtime.models.transformers_model import load_transformers, transformers_config

ONE_AT_A_TIME = Lock()
"""transformers changes its own classes while it loads a model: two threads that load at the same
time may leave them changed, and tied heads untied, for the rest of the process."""


def load_model(directory: Path) -> PreTrainedModel:
    """Load a checkpoint in float32, ready to be evaluated.

    Raises:
        ConfigError: generation would reject it; transformers itself ignores much silently.
    """
    disable_progress_bar()
    with ONE_AT_A_TIME:
        model = load_transformers(directory, torch.float32)
    return prepared(model)


def load_shapes(directory: Path) -> PreTrainedModel:
    """Return a checkpoint's model without its weights, on the meta device.

    Raises:
        ConfigError: generation would reject its configuration.
    """
    read_model_config(directory)
    with ONE_AT_A_TIME, torch.device("meta"):
        model = AutoModelForCausalLM.from_config(transformers_config(directory))
    return prepared(model)


def has_tied_head(model: PreTrainedModel) -> bool:
    """Return whether a model's head is its embedding."""
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    return head is not None and getattr(head, "weight", None) is embedding.weight


def prepared(model: PreTrainedModel) -> PreTrainedModel:
    """Return a model ready to be evaluated, whatever its files say about generation."""
    model.config.use_cache = False
    # The file's own has penalties and forced tokens, which would change greedy answers silently.
    model.generation_config = GenerationConfig()
    model.eval()
    return model
