"""A model with local layers generates the same under speculation, shared prefixes and preemption.

Windows are masks over the whole cache, so rollback, trees, shared pages and preemption must leave
nothing behind that a later token sees.
"""

from functools import cache

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from parallel.group import SoloGroup
from parallel.model.cache import PagedCache
from parallel.model.transformer import Decoder
from runtime.drafters.model_drafting import ModelDrafter
from runtime.models.hf_config import parse_config
from runtime.rank.page_ledger import SlotLedger
from runtime.rank.shard import DecoderShard, ShardRunner
from tests.support.reference_models import make_model
from tests.support.rig import PAGE, VOCAB, Rig, make_submit
from tests.support.tiny_transformer import CPU, TableSource, tokens

FIELDS: dict[str, object] = {
    "model_type": "gemma3_text",
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 7,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 400,
    "sliding_window": 6,
}
SHARED = tokens(21, vocab_size=VOCAB)
LONG = [(*SHARED, 5, 6, 7), (*SHARED[:17], 9), SHARED[3:9] * 4]
SHORT = [tokens(3, seed=seed, vocab_size=VOCAB) for seed in range(2)]
PROMPTS = [*LONG, *SHORT]
NUM_TOKENS = 110


@cache
def reference() -> PreTrainedModel:
    return make_model(FIELDS, own_head=False)


@cache
def expected(prompt: tuple[int, ...]) -> list[int]:
    """Return what transformers' model continues a prompt with, read whole for each token."""
    ids = list(prompt)
    with torch.inference_mode():
        for _ in range(NUM_TOKENS):
            logits: Tensor = reference()(torch.tensor([ids]), use_cache=False).logits[0, -1]
            best = logits.topk(2).values
            assert best[0] - best[1] > 1e-4, "two tokens are nearly equal: take another seed"
            ids.append(int(logits.argmax()))
    return ids[len(prompt) :]


def shard(num_pages: int, layers: tuple[int, ...] | None = None) -> DecoderShard:
    config = parse_config(FIELDS)
    source = TableSource(reference().state_dict())
    decoder = Decoder(config, source, SoloGroup(), layers=layers, device=CPU)
    pages = PagedCache(
        num_layers=decoder.stack.num_cached_layers,
        num_kv_heads=decoder.stack.heads.num_kv,
        head_dim=config.head_dim,
        num_pages=num_pages,
        page_size=PAGE,
    )
    return DecoderShard(decoder, pages)


def attach(rig: Rig, drafter: str) -> None:
    if drafter == "look-up":
        rig.attach_lookup()
    elif drafter == "model":
        layers = (0, 1, 5, 6)  # the target's own, of both kinds
        runner = ShardRunner(shard(400, layers), SoloGroup())
        rig.attach(ModelDrafter(runner, SlotLedger(num_pages=400, page_size=PAGE)))


@pytest.mark.parametrize("num_pages", [400, 60])
@pytest.mark.parametrize(
    ("mode", "drafter"),
    [
        ("autoregressive", "none"),
        ("speculative", "look-up"),
        ("speculative", "model"),
        ("pearl", "model"),
    ],
)
def test_greedy_output_is_that_of_transformers(mode: str, drafter: str, num_pages: int) -> None:
    rig = Rig(num_pages=num_pages, prefill_chunk=8, model=shard(num_pages))
    try:
        attach(rig, drafter)
        for _ in range(2):  # the second time, prompts are in the prefix cache
            submits = [
                make_submit(number, prompt=prompt, mode=mode, max_tokens=NUM_TOKENS)
                for number, prompt in enumerate(PROMPTS)
            ]
            outcomes = rig.run(submits)
            for number, prompt in enumerate(PROMPTS):
                assert outcomes[number].token_ids == expected(prompt)
        finished = [outcomes[number].finished for number in range(len(PROMPTS))]
        stats = [end.stats for end in finished if end is not None]
        assert any(request.accepted for request in stats) == (drafter != "none")
        assert any(request.preemptions for request in stats) == (num_pages == 60)
        if num_pages == 400:
            assert all(request.cached_prompt for request in stats[: len(LONG)])
    finally:
        rig.close()
