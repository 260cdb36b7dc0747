"""Engines whose target and drafter run on a device's kernels give the tokens of the target alone.

The kernels are those in plain torch, on a CPU: an engine, its drafts and its verdicts are the real
ones, from the packed plan to the drawn tokens.
"""

from functools import cache

import pytest
import torch

from parallel.decoding.rng import request_key
from parallel.decoding.sampling import sample
from parallel.decoding.score_row import ScoreRow
from parallel.decoding.types import RngKey, SamplingParams
from parallel.device_kernels.plain_kernels import PlainKernels
from parallel.group import Group, SoloGroup
from parallel.messages import Submit
from parallel.model.cache import PagedCache
from parallel.model.device_backend import DeviceBackend
from parallel.model.transformer import Decoder
from runtime.drafters.model_drafting import ModelDrafter
from runtime.rank.page_ledger import SlotLedger
from runtime.rank.shard import DecoderShard, ShardRunner
from tests.support.device_families import model_of
from tests.support.rig import PAGE, make_submit
from tests.support.tiny_transformer import CPU, RankThread, TinyModel, on_ranks
from tests.support.virtual_engine import VirtualEngine

NUM_PAGES = 60
NUM_TOKENS = 8
SAMPLINGS = (
    SamplingParams(),
    SamplingParams(temperature=0.9, seed=3),
    SamplingParams(temperature=0.9, top_k=4, seed=3),
    SamplingParams(temperature=0.9, frequency_penalty=1.0, seed=3),
)


@cache
def model() -> TinyModel:
    return model_of("qwen3")


def shard(group: Group, layers: tuple[int, ...] | None = None) -> DecoderShard:
    decoder = Decoder(
        model().config,
        model().source,
        group,
        layers=layers,
        device=CPU,
        backend=DeviceBackend(PlainKernels(), torch.float32),
    )
    return DecoderShard(
        decoder,
        PagedCache(
            num_layers=decoder.stack.num_cached_layers,
            num_kv_heads=decoder.stack.heads.num_kv,
            head_dim=decoder.config.head_dim,
            num_pages=NUM_PAGES,
            page_size=PAGE,
        ),
    )


def submits(mode: str) -> list[Submit]:
    return [
        make_submit(number, prompt=(number, 9, 4), mode=mode, sampling=sampling, max_tokens=8)
        for number, sampling in enumerate(SAMPLINGS)
    ]


@cache
def expected(number: int) -> list[int]:
    """Return what the host draws from transformers' logits."""
    submit = submits("pearl")[number]
    token_ids = list(submit.prompt_ids)
    key = RngKey(seed=submit.sampling.seed, request=request_key(submit.prompt_ids, 0))
    for position in range(NUM_TOKENS):
        row = ScoreRow(model().expected(token_ids)[-1], None)
        token_ids.append(sample(row, submit.sampling, key, position, token_ids))
    return token_ids[len(submit.prompt_ids) :]


@pytest.mark.parametrize(("mode", "size"), [("pearl", 1), ("outcomes", 1), ("speculative", 2)])
def test_an_engine_on_a_device_gives_the_tokens_of_the_target_alone(mode: str, size: int) -> None:
    def serve(group: RankThread) -> int:
        target = shard(group)
        if group.rank > 0:
            ShardRunner(target, group).follow()
            return 0
        engine = VirtualEngine(
            shard=target, group=group, num_pages=NUM_PAGES, max_positions=target.max_positions
        )
        runner = ShardRunner(shard(SoloGroup(), (0,)), SoloGroup())
        engine.attach(ModelDrafter(runner, SlotLedger(num_pages=NUM_PAGES, page_size=PAGE)))
        asked = submits(mode)
        driver = engine.run(asked)
        for submit in asked:
            outcome = driver.outcomes[submit.request]
            assert outcome.finished is not None, outcome.failed
            assert outcome.token_ids == expected(submit.request)
        assert driver.status is not None
        assert driver.status.status.drafter_faults == 0
        return sum(o.finished.stats.drafted for o in driver.outcomes.values() if o.finished)

    assert on_ranks(size, serve)[0] > 0
