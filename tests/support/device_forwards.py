"""Three forwards in turn, as an engine makes them: prompts, drafts in a tree, and what it kept."""

import torch

from parallel.batch import SequenceRows, path_to
from parallel.group import Group, SoloGroup
from parallel.model.backend import Backend
from parallel.model.cache import SoleCache
from parallel.model.layer_weights import TensorSource
from parallel.model.transformer import Decoder
from tests.support.tiny_transformer import TinyModel, rows_of, tokens

TEXT, OTHER, NODES = (tokens(count, seed=count, vocab_size=67) for count in (12, 9, 5))
_TREE = (-1, 0, 0, -1, 3)
_PATH = path_to(_TREE, 4)
PROMPTS = [rows_of(TEXT), rows_of(OTHER, slot=1)]
DRAFTS = [
    SequenceRows(slot=0, start=12, token_ids=(TEXT[0], *NODES), num_logits=6, parents=_TREE),
    SequenceRows(slot=1, start=8, token_ids=(OTHER[-1], *NODES[:3]), num_logits=4),
]
"""A tree and a chain."""
KEPT = [
    SequenceRows(
        slot=0,
        start=13 + len(_PATH),
        token_ids=(NODES[1],),
        num_logits=1,
        moves=tuple(13 + node for node in _PATH),
    )
]
"""After the tree: its accepted path moves to just behind the first row."""
FORWARDS = (PROMPTS, DRAFTS, KEPT)


def decoder_of(
    model: TinyModel,
    backend: Backend,
    group: Group | None = None,
    *,
    source: TensorSource | None = None,
    device: str = "cpu",
    layer_parallel_from: int | None = None,
) -> Decoder:
    """Return a tiny model's decoder; its weights are on the CPU unless `source` has others."""
    return Decoder(
        model.config,
        source or model.source,
        group or SoloGroup(),
        device=torch.device(device),
        backend=backend,
        layer_parallel_from=layer_parallel_from,
    )


def cache_of(
    decoder: Decoder, *, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> SoleCache:
    """Return a cache of NaN with two sequences on scattered pages."""
    cache = SoleCache(
        num_layers=decoder.stack.num_cached_layers,
        num_kv_heads=decoder.stack.heads.num_kv,
        head_dim=decoder.config.head_dim,
        num_pages=40,
        page_size=4,
        dtype=dtype,
        device=torch.device(device),
    )
    cache.storage.fill_(torch.nan)
    cache.hold(0, [9, 1, 4, 7, 5])
    cache.hold(1, [2, 8, 0])
    return cache
