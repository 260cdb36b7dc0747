"""Drafts of several layers at a time: exact output, calibrated caches, the same distribution."""

from collections import Counter
from collections.abc import Sequence

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from parallel.batch import SequenceRows
from parallel.decoding.types import RngKey, SamplingParams, SparseProbs
from parallel.group import SoloGroup
from parallel.messages import DraftItem, DraftOpen, DraftRequest, ProposalItem
from runtime.drafters.model_drafting import ModelDrafter
from runtime.rank.page_ledger import SlotLedger
from runtime.rank.shard import DecoderShard, ShardRunner
from runtime.rank.toy_shard import PrefixShard, prefix_logits
from tests.support.rig import VOCAB, Rig, expected_tokens, make_submit
from tests.support.tiny_transformer import TinyModel, make_cache, tiny_model, tokens
from tests.support.toy_constraint import END, SPEC, TOKENS, ToyConstraints

NUM_LAYERS = 7
PROMPT = tokens(12)


@pytest.mark.parametrize("width", [1, 2, 4])
@pytest.mark.parametrize("mode", ["speculative", "pearl", "auto"])
@pytest.mark.parametrize("sampling", [SamplingParams(), SamplingParams(temperature=1.0, seed=5)])
def test_every_width_gives_the_tokens_of_the_target_alone(
    rig: Rig, width: int, mode: str, sampling: SamplingParams
) -> None:
    rig.attach_model(noise=0.2, width=width)
    submits = [
        make_submit(r, prompt=(r + 1, 7), mode=mode, sampling=sampling, max_tokens=40)
        for r in range(4)
    ]
    outcomes = rig.run(submits)
    for submit in submits:
        assert outcomes[submit.request].token_ids == expected_tokens(submit)
    stats = [o.finished.stats for o in outcomes.values() if o.finished is not None]
    assert sum(s.drafted for s in stats) > sum(s.accepted for s in stats) > 0
    assert {s.draft_width for s in stats} == {width}


def test_wide_drafts_are_accepted_less(rig: Rig) -> None:
    accepted = Counter[int]()
    for width in (1, 6):
        link = rig.attach_model(noise=0.0, width=width)
        outcomes = rig.run([make_submit(r, prompt=(r + 1, 9), max_tokens=60) for r in range(4)])
        for outcome in outcomes.values():
            assert outcome.finished is not None
            accepted[width] += outcome.finished.stats.accepted
        link.close()
    assert accepted[1] > accepted[6] > 0


def test_the_leader_tries_the_widths_that_promise_to_be_faster(rig: Rig) -> None:
    rig.attach_model(noise=0.1, step_s=(0.004, 0.00399, 0.002, 0.0019))
    outcome = rig.run([make_submit(max_tokens=300, prompt=(4, 4))])[0]
    assert outcome.token_ids == expected_tokens(make_submit(max_tokens=300, prompt=(4, 4)))
    assert outcome.finished is not None
    stats = outcome.finished.stats
    assert stats.draft_width in {1, 3, 4}
    assert 0.0019 < stats.predicted_step_s < 0.004
    assert stats.draft_step_s > 0


class Leader:
    """Asks a drafter for drafts of a real model and knows what its cache should hold."""

    def __init__(self, model: TinyModel, *, width: int, calibrates: bool = True) -> None:
        self.decoder = model.decoder(layer_parallel_from=0)
        self.cache = make_cache(self.decoder, num_pages=60)
        ledger = SlotLedger(num_pages=60, page_size=4)
        runner = ShardRunner(DecoderShard(self.decoder, self.cache), SoloGroup())
        self.drafter = ModelDrafter(runner, ledger, width=width, calibrates=calibrates)
        self.width = width
        self.held = 0
        self.rounds = 0

    def open(self, num_prompt: int) -> None:
        opened = DraftOpen(
            request=1,
            key=RngKey(seed=0, request=1),
            sampling=SamplingParams(),
            num_prompt=num_prompt,
            capacity=120,
            send_probs=False,
        )
        self._send(DraftRequest(round=0, opened=(opened,)))

    def ask(self, known: tuple[int, ...], keep: int, num_draft: int = 4) -> tuple[int, ...]:
        """Return the draft after `known`, of which the drafter holds `keep` already."""
        item = DraftItem(request=1, epoch=0, keep=keep, tail=known[keep:], num_draft=num_draft)
        self.rounds += 1
        (found,) = self._send(DraftRequest(round=self.rounds, items=(item,), width=self.width))
        return found.token_ids

    def prefilled(self, known: tuple[int, ...]) -> Tensor:
        """Return the cache that one exact forward over `known` makes."""
        fresh = make_cache(self.decoder, num_pages=60)
        fresh.open(1, len(known))
        row = SequenceRows(slot=1, start=0, token_ids=known, num_logits=0)
        with torch.inference_mode():
            self.decoder.forward([row], fresh)
        return fresh.snapshot(1)

    def _send(self, request: DraftRequest) -> tuple[ProposalItem, ...]:
        (part,) = self.drafter.answer(request)
        return part.items


@pytest.mark.parametrize("ahead", [False, True], ids=["draft-then-verify", "pearl"])
@pytest.mark.parametrize("width", [2, 5])
def test_after_calibration_the_cache_equals_a_fresh_prefill(width: int, *, ahead: bool) -> None:
    model = tiny_model(num_hidden_layers=NUM_LAYERS)
    for seed in range(30):
        leader = Leader(model, width=width)
        known = tokens(10 + seed % 5, seed=seed)
        leader.open(len(known))
        draft, keep = leader.ask(known, 0), 0
        for number in range(4):
            if ahead and number % 2:  # all of it is in flight: the next draft continues after it
                keep = len(known) + len(draft)
                known = known + draft
            else:
                taken = (seed + number) % (len(draft) + 1)
                keep = len(known) + taken
                known = (*known, *draft[:taken], (seed * 7 + number) % model.config.vocab_size)
            draft = leader.ask(known, keep, num_draft=4 if number % 3 else 1)
            held = leader.cache.snapshot(1)[:, :, :, : len(known)]
            fresh = leader.prefilled(known)
            torch.testing.assert_close(held, fresh, atol=1e-4, rtol=0)


def test_without_calibration_the_cache_goes_astray() -> None:
    model = tiny_model(num_hidden_layers=NUM_LAYERS)
    leader = Leader(model, width=5, calibrates=False)
    leader.open(len(PROMPT))
    draft = leader.ask(PROMPT, 0)
    known = PROMPT + draft
    leader.ask(known, len(known))
    held = leader.cache.snapshot(1)[:, :, :, : len(known)]
    assert not torch.allclose(held, leader.prefilled(known), atol=1e-2)


def forced_draft(
    output: tuple[int, ...], num_draft: int, *, sends_probs: bool = False, streams: bool = False
) -> tuple[list[ProposalItem], int]:
    """Draft once after an output of the toy's constraint; returns the parts and the forwards."""
    shard = PrefixShard(VOCAB, page_size=4)
    ledger = SlotLedger(num_pages=60, page_size=4)
    drafter = ModelDrafter(ShardRunner(shard, SoloGroup()), ledger, constraints=ToyConstraints())
    sampling = SamplingParams(constraint=SPEC, end_ids=(END,), temperature=float(sends_probs))
    opened = DraftOpen(
        request=1,
        key=RngKey(seed=0, request=1),
        sampling=sampling,
        num_prompt=2,
        capacity=60,
        send_probs=sends_probs,
    )
    item = DraftItem(
        request=1, epoch=1, keep=0, tail=(7, 7, *output), num_draft=num_draft, stream=streams
    )
    parts = list(drafter.answer(DraftRequest(round=1, items=(item,), opened=(opened,))))
    assert sum(part.num_steps for part in parts) == shard.num_forwards
    return [item for part in parts for item in part.items], shard.num_forwards


KEY = tuple(TOKENS.index(bytes([byte])) for byte in b"key")


def spelled(token_ids: Sequence[int]) -> bytes:
    return b"".join(TOKENS[token] or b"" for token in token_ids)


def test_what_must_follow_is_drafted_without_a_forward() -> None:
    ((draft,), num_forwards) = forced_draft(KEY, 1)
    assert (spelled(draft.token_ids), num_forwards) == (b"=", 0)


def test_a_chain_continues_after_what_is_forced() -> None:
    ((draft,), num_forwards) = forced_draft(KEY, 5)
    assert len(draft.token_ids) == 5
    assert spelled(draft.token_ids).startswith(b"=")
    assert num_forwards == 4


def test_forced_tokens_are_certain_and_streamed_in_order() -> None:
    (first, rest), num_forwards = forced_draft(KEY, 4, sends_probs=True, streams=True)
    assert spelled(first.token_ids) == b"="
    assert first.draft_probs == (SparseProbs(ids=first.token_ids, probs=(1.0,)),)
    assert len(rest.token_ids) == len(rest.draft_probs) == 3
    assert rest.base == first.base + 1
    assert num_forwards == 3


@pytest.mark.parametrize("mode", ["speculative", "pearl"])
def test_the_width_does_not_change_the_distribution_of_samples(rig: Rig, mode: str) -> None:
    """Chi-square of the third token over all paths to it, exactly known."""
    num, prompt = 6000, (3, 1)
    rig.attach_model(noise=0.5, width=4)
    counts = Counter[int]()
    num_accepted = 0
    for first in range(0, num, 500):
        submits = [
            make_submit(
                request,
                prompt=prompt,
                mode=mode,
                verifier="rejection",
                sampling=SamplingParams(temperature=1.0, top_k=3, seed=first + request),
                max_tokens=3,
                draft_length=3,
            )
            for request in range(500)
        ]
        for outcome in rig.run(submits).values():
            assert outcome.finished is not None
            num_accepted += outcome.finished.stats.accepted
            counts[outcome.token_ids[2]] += 1
    probs: dict[int, float] = {}
    for one, p_one in next_probs(prompt).items():
        for two, p_two in next_probs((*prompt, one)).items():
            for three, p_three in next_probs((*prompt, one, two)).items():
                probs[three] = probs.get(three, 0.0) + p_one * p_two * p_three
    assert set(counts) <= set(probs)
    likely = [token for token, p in probs.items() if p * num >= 5]
    observed = [counts[token] for token in likely]
    expected = [probs[token] * num for token in likely]
    rest = num - sum(expected)
    if rest > 0.5:
        observed.append(num - sum(observed))
        expected.append(rest)
    assert chisquare(observed, expected).pvalue > 1e-4
    assert num_accepted > num / 4


def next_probs(prefix: tuple[int, ...]) -> dict[int, float]:
    """Return the target's probabilities after a prefix with top_k=3 at temperature 1."""
    logits, ids = prefix_logits(prefix, VOCAB).double().topk(3)
    return dict(zip(ids.tolist(), logits.softmax(0).tolist(), strict=True))
