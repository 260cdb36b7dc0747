"""Every way to decode with one model in one weight format: modes, drafters, ranks and batches.

An engine in virtual time runs a real checkpoint; ranks are threads.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from parallel.decoding.types import DecodeMode, SamplingParams, TokenLogprobs
from parallel.group import Group, SoloGroup
from parallel.messages import RequestStats, Submit
from parallel.model.cache import PagedCache
from parallel.model.transformer import Decoder
from runtime.constraints.compiler import Constraints
from runtime.drafters.draft_checkpoint import load_drafter
from runtime.drafters.drafting import Drafter
from runtime.drafters.lookup_drafting import LookupDrafter
from runtime.drafters.lookups.lookup_settings import NO_LOOKUPS, LookupSettings
from runtime.drafters.model_drafting import ModelDrafter
from runtime.models.weights import load_decoder
from runtime.rank.page_ledger import SlotLedger
from runtime.rank.shard import DecoderShard, ShardRunner
from tests.support.rig import PAGE, make_submit
from tests.support.tiny_transformer import CPU, RankThread, on_ranks
from tests.support.virtual_engine import VirtualEngine

FORMATS = ("float32", "bfloat16", "int8", "int4")
"""The weight formats within which all outputs are identical."""
WAYS = {
    "autoregressive": DecodeMode.AUTOREGRESSIVE,
    "speculative": DecodeMode.SPECULATIVE,
    "pearl": DecodeMode.PEARL,
    "outcomes": DecodeMode.OUTCOMES,
    "trees": DecodeMode.SPECULATIVE,
    "lookup": DecodeMode.SPECULATIVE,
    "shipped": DecodeMode.SPECULATIVE,
}
"""Ways to decode, with their modes; `shipped` needs a trained drafter."""
MAX_BATCH = 16
DRAFT_LENGTH = 2
NUM_LOGPROBS = 3
HEADROOM = 64 + 2 * DRAFT_LENGTH
"""Tokens that the engine reserves beyond those of a request."""


@dataclass(frozen=True, kw_only=True)
class StoredModel:
    """A checkpoint in one weight format."""

    directory: Path
    weights: str
    draft_layers: tuple[int, ...]
    """Layers of the target that draft for it."""
    shipped: Path | None = None
    """A trained drafter."""
    num_pages: int
    """Of each cache."""

    def shard(self, group: Group, *, layers: tuple[int, ...] | None = None) -> DecoderShard:
        """Return a rank's shard, or one that is cut to some layers."""
        decoder = load_decoder(
            self.directory, group, weights=self.weights, device=CPU, layers=layers
        )
        return DecoderShard(decoder, self._cache(decoder))

    def drafter(self, way: str, constraints: Constraints | None = None) -> Drafter | None:
        """Return what drafts in a way to decode, under these constraints."""
        if way == "autoregressive":
            return None
        if way == "lookup":
            return LookupDrafter(LookupSettings(), constraints)
        if way == "shipped":
            assert self.shipped is not None
            decoder, head_token_ids = load_drafter(
                self.shipped,
                self.directory,
                SoloGroup(),
                weights="float32",
                device=CPU,
                layer_parallel_from=None,
            )
            cache = self._cache(decoder)
            shard = DecoderShard(decoder, cache, head_token_ids)
        else:
            shard = self.shard(SoloGroup(), layers=self.draft_layers)
        grows_trees = way in ("trees", "shipped")
        return ModelDrafter(
            ShardRunner(shard, SoloGroup()),
            SlotLedger(num_pages=self.num_pages, page_size=PAGE),
            lookups=LookupSettings() if grows_trees else NO_LOOKUPS,
            grows_trees=grows_trees,
            constraints=constraints,
        )

    def _cache(self, decoder: Decoder) -> PagedCache:
        return PagedCache(
            num_layers=decoder.stack.num_cached_layers,
            num_kv_heads=decoder.stack.heads.num_kv,
            head_dim=decoder.config.head_dim,
            num_pages=self.num_pages,
            page_size=PAGE,
        )


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What an engine made of requests."""

    token_ids: list[list[int]]
    logprobs: list[list[TokenLogprobs]]
    """Of each token, where a request asks for them."""
    stats: list[RequestStats]

    @property
    def accepted(self) -> int:
        """Draft tokens that were accepted, over all requests."""
        return sum(stats.accepted for stats in self.stats)

    @property
    def preemptions(self) -> int:
        """How often the cache of a request was given to others."""
        return sum(stats.preemptions for stats in self.stats)


def answers(
    model: StoredModel,
    way: str,
    submits: Sequence[Submit],
    *,
    tp: int = 1,
    max_batch: int = MAX_BATCH,
    num_pages: int | None = None,
    num_drafters: int = 1,
) -> Answers:
    """Serve requests in one of WAYS.

    Args:
        model: the target.
        way: how to decode.
        submits: the requests; their mode is that of the way.
        tp: ranks of the target.
        max_batch: requests that run at once.
        num_pages: pages of the target's cache; None is room for all.
        num_drafters: drafters side by side.
    """

    def serve(group: RankThread) -> Answers | None:
        shard = model.shard(group)
        if group.rank > 0:
            ShardRunner(shard, group).follow()
            return None
        engine = VirtualEngine(
            shard=shard,
            group=group,
            max_batch=max_batch,
            num_pages=num_pages or model.num_pages,
            max_positions=shard.max_positions,
        )
        for _ in range(num_drafters):
            drafter = model.drafter(way)
            if drafter is not None:
                engine.attach(drafter, joins=True)
        driver = engine.run([replace(submit, mode=WAYS[way]) for submit in submits])
        outcomes = [driver.outcomes[submit.request] for submit in submits]
        for outcome in outcomes:
            assert outcome.finished is not None, outcome.failed
        return Answers(
            token_ids=[outcome.token_ids for outcome in outcomes],
            logprobs=[outcome.logprobs for outcome in outcomes],
            stats=[outcome.finished.stats for outcome in outcomes if outcome.finished],
        )

    found = on_ranks(tp, serve)[0]
    assert found is not None
    return found


def plain_submits(
    prompts: Sequence[tuple[int, ...]], num_tokens: int, sampling: SamplingParams | None = None
) -> list[Submit]:
    """Return one request for each prompt, whose logits can be compared too."""
    return [
        replace(
            make_submit(
                number,
                prompt=prompt,
                max_tokens=num_tokens,
                draft_length=DRAFT_LENGTH,
                sampling=sampling,
            ),
            ignore_eos=True,
            num_logprobs=NUM_LOGPROBS,
        )
        for number, prompt in enumerate(prompts)
    ]


def check_way(
    model: StoredModel,
    way: str,
    prompts: Sequence[tuple[int, ...]],
    expected: Answers,
    *,
    tp: int,
    num_alone: int | None = None,
) -> None:
    """Check that a way gives the expected answers: alone, in a batch, resumed and preempted.

    Args:
        model: the target.
        way: how to decode.
        prompts: tokens of each prompt.
        expected: the answers, of more than HEADROOM tokens each; a request holds pages for those
            from the start, and is preempted only when it grows further.
        tp: ranks of the target.
        num_alone: how many of the prompts are also decoded alone; None: all.
    """
    num_tokens = len(expected.token_ids[0])
    assert num_tokens > HEADROOM
    submits = plain_submits(prompts, num_tokens)
    case = f"{way}, {model.weights}, tp {tp}"
    # Without logits, ranks gather only the best tokens.
    some = [replace(submit, num_logprobs=None) for submit in submits[:num_alone]]
    alone = answers(model, way, some, tp=tp, max_batch=1)
    assert alone.token_ids == expected.token_ids[: len(some)], f"{case}, batch 1"

    batched = answers(model, way, submits, tp=tp)
    _check_bits(batched, expected, f"{case}, batch {MAX_BATCH}")
    for found in (alone, batched):
        assert (found.accepted > 0) == (way != "autoregressive"), case

    cuts = [(7 * number) % (num_tokens - 1) + 1 for number in range(len(prompts))]
    resumed = [
        replace(submit, output_ids=tuple(token_ids[:cut]))
        for submit, token_ids, cut in zip(submits, expected.token_ids, cuts, strict=True)
    ]
    rest = replace(
        expected,
        token_ids=[ids[cut:] for ids, cut in zip(expected.token_ids, cuts, strict=True)],
        logprobs=[of[cut:] for of, cut in zip(expected.logprobs, cuts, strict=True)],
    )
    _check_bits(answers(model, way, resumed, tp=tp), rest, f"{case}, resumed")

    *first, last = prompts[:MAX_BATCH]
    lengths = [*(len(prompt) + num_tokens for prompt in first), len(last) + HEADROOM]
    num_pages = sum(-(-length // PAGE) for length in lengths)  # the last one starts and cannot end
    pressed = answers(model, way, submits, tp=tp, num_pages=num_pages)
    _check_bits(pressed, expected, f"{case}, preempted")
    assert pressed.preemptions > 0, case


def check_outcomes(
    model: StoredModel,
    prompts: Sequence[tuple[int, ...]],
    expected: Answers,
    sampling: SamplingParams,
    *,
    num_drafters: int,
    max_batch: int,
) -> None:
    """Check that mode `outcomes` gives the expected answers, with drafts that were made ahead."""
    submits = plain_submits(prompts, len(expected.token_ids[0]), sampling)
    found = answers(model, "outcomes", submits, max_batch=max_batch, num_drafters=num_drafters)
    case = f"{num_drafters} drafters, batch {max_batch}, temperature {sampling.temperature}"
    _check_bits(found, expected, case)
    assert sum(stats.hits for stats in found.stats) > 0, case
    assert sum(stats.recovered_hits for stats in found.stats) > 0, case
    num_guesses = sum(stats.guesses for stats in found.stats)
    num_rounds = sum(stats.rounds for stats in found.stats)
    if max_batch == 1:  # further drafters have no request of their own
        assert num_guesses > 5 * num_drafters * num_rounds, case


def _check_bits(found: Answers, expected: Answers, case: str) -> None:
    """Check tokens, and the bits of their logits; a log probability sums all logits of a place."""
    assert found.token_ids == expected.token_ids, case
    assert found.logprobs == expected.logprobs, f"{case}: the same tokens, by other logits"
