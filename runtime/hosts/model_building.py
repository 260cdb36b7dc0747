"""Builds what a rank's settings describe: its shard, its page ledger, and the drafter on them."""

import torch

from parallel.group import Group
from parallel.model.cache import PagedCache
from parallel.model.transformer import Decoder
from runtime.constraints.compiler import Constraints
from runtime.drafters.draft_checkpoint import load_drafter
from runtime.drafters.model_drafting import ModelDrafter
from runtime.hosts.rank_settings import ModelSettings
from runtime.models.weights import load_decoder
from runtime.rank.group_models import on_this_node
from runtime.rank.page_ledger import SlotLedger
from runtime.rank.recorded_forwards import record_forwards
from runtime.rank.shard import DecoderShard, ShardRunner
from runtime.rank.virtual_shard import VirtualShard
from runtime.weights.weight_choice import choose_weights


def build_shard(settings: ModelSettings, group: Group) -> DecoderShard | VirtualShard:
    """Load a rank's part of the model, or make a virtual one.

    Raises:
        ConfigError: this node does not have the checkpoint, or it cannot be used.
    """
    if settings.virtual is not None:
        return VirtualShard(
            settings.virtual,
            drafter=settings.role == "drafter",
            group=group,
            layer_parallel_from=_first_parallel_layer(settings) or 0,
        )
    device = torch.device(settings.device)
    decoder, head_token_ids = _load(settings, group, device)
    cache = PagedCache(
        num_layers=decoder.stack.num_cached_layers,
        num_kv_heads=decoder.stack.heads.num_kv,
        head_dim=decoder.config.head_dim,
        num_pages=settings.num_pages,
        page_size=settings.page_size,
        dtype=choose_weights(settings.weights, settings.device).activations,
        device=device,
    )
    recorded = None
    if device.type == "cuda" and settings.layer_parallel is None:
        recorded = record_forwards(decoder, cache, group)
    return DecoderShard(decoder, cache, head_token_ids, recorded)


def build_ledger(settings: ModelSettings) -> SlotLedger:
    """Return the account of the group's cache."""
    return SlotLedger(
        num_pages=settings.num_pages,
        page_size=settings.page_size,
        # A virtual shard must read each prompt's first token.
        shares=settings.shares_prefixes and settings.virtual is None,
    )


def build_drafter(
    runner: ShardRunner,
    settings: ModelSettings,
    step_s: tuple[float, ...] = (),
    *,
    constraints: Constraints | None = None,
) -> ModelDrafter:
    """Return the drafter that rank 0's model makes.

    Args:
        runner: the opened model.
        settings: the model's settings.
        step_s: seconds that a step is predicted to take with widths 1, 2, ...
        constraints: where it finds those of requests.

    Raises:
        ConfigError: the files of a look-up source cannot be read here.
    """
    parallel = settings.layer_parallel
    return ModelDrafter(
        runner,
        build_ledger(settings),
        lookups=settings.lookups,
        # A virtual drafter's chains follow the formulas' process; trees would not.
        grows_trees=settings.virtual is None,
        width=parallel.width if parallel is not None else None,
        step_s=step_s,
        calibrates=settings.calibrates,
        prompt_window=settings.prompt_window,
        constraints=constraints,
    )


def _load(
    settings: ModelSettings, group: Group, device: torch.device
) -> tuple[Decoder, torch.Tensor | None]:
    """Return the decoder, and the token ids of a trained drafter's head."""
    assert settings.directory is not None
    directory = on_this_node(settings.directory, settings.known)
    first = _first_parallel_layer(settings)
    if settings.embedding_directory is not None:
        target = on_this_node(settings.embedding_directory, settings.known)
        return load_drafter(
            directory,
            target,
            group,
            weights=settings.weights,
            device=device,
            layer_parallel_from=first,
        )
    decoder = load_decoder(
        directory,
        group,
        weights=settings.weights,
        device=device,
        layers=settings.layers,
        layer_parallel_from=first,
    )
    return decoder, None


def _first_parallel_layer(settings: ModelSettings) -> int | None:
    parallel = settings.layer_parallel
    return None if parallel is None else parallel.first_layer
