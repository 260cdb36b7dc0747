"""The search for the layers of a self-drafter, in the process that loads the target."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from parallel.batch import SequenceRows
from parallel.drafting.layer_skip import Layers, SkipTrial, search_layers
from parallel.group import SoloGroup
from parallel.model.cache import SoleCache
from parallel.model.shapes import tensor_shapes
from parallel.model.transformer import Decoder
from runtime.distillation.draft_corpus import CorpusRecord, read_corpus
from runtime.errors import ConfigError
from runtime.models.weights import load_decoder
from runtime.weights.weight_choice import choose_weights

_PAGE = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchJob:
    """The settings of a search, as plain values."""

    target_directory: str
    corpus: str
    """The file of the target's own greedy answers."""
    num_trials: int
    seed: int
    weights: str
    device: str
    num_threads: int


def run_search(job: SearchJob) -> Iterator[SkipTrial]:
    """Yield each set of layers after its evaluation.

    Raises:
        ConfigError: the target has no layers to skip, or the corpus has no answers.
    """
    torch.set_num_threads(job.num_threads)
    device = torch.device(job.device)
    dtype = choose_weights(job.weights, job.device).activations
    directory = Path(job.target_directory)
    decoder = load_decoder(directory, SoloGroup(), weights=job.weights, device=device)
    records = [record for record in read_corpus(Path(job.corpus)) if record.output_ids]
    if not records:
        raise ConfigError(
            "the corpus has no answers of the target to evaluate on: use other `prompts`"
        )
    shapes = tensor_shapes(decoder.config)
    sizes = {name: torch.Size(shape).numel() for name, shape in shapes.items()}
    in_layers = sum(size for name, size in sizes.items() if name.startswith("model.layers."))
    head = decoder.config.vocab_size * decoder.config.hidden_size
    try:
        yield from search_layers(
            decoder.config.num_layers,
            lambda kept: measure_agreement(decoder, kept, records, dtype, device),
            fixed_cost=head / (head + in_layers),
            num_trials=job.num_trials,
            seed=job.seed,
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error


def measure_agreement(
    decoder: Decoder,
    kept: Layers,
    records: list[CorpusRecord],
    dtype: torch.dtype,
    device: torch.device,
) -> float:
    """Return how often the best token of the model with these layers is the answer's token."""
    cut = decoder.keeping(kept)
    right = total = 0
    for record in records:
        tokens = (record.prompt_ids + record.output_ids)[:-1]
        cache = SoleCache(
            num_layers=len(kept),
            num_kv_heads=cut.stack.heads.num_kv,
            head_dim=cut.config.head_dim,
            num_pages=-(-len(tokens) // _PAGE),
            page_size=_PAGE,
            dtype=dtype,
            device=device,
        )
        cache.open(0, len(tokens))
        row = SequenceRows(slot=0, start=0, token_ids=tokens, num_logits=len(record.output_ids))
        with torch.inference_mode():
            best = cut.forward([row], cache).argmax(dim=1).tolist()
        right += sum(a == b for a, b in zip(best, record.output_ids, strict=True))
        total += len(best)
    return right / total
