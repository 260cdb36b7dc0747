"""Whatever drafts, and in whatever mode: the engine gives the tokens of the target alone."""

from collections import defaultdict

import pytest

from parallel.decoding.types import DecodeMode, RngKey, SamplingParams
from parallel.group import SoloGroup
from parallel.messages import (
    DraftItem,
    DraftOpen,
    DraftRequest,
    ProposalItem,
)
from parallel.rounds.mode_chooser import ModeChooser
from runtime.drafters.lookups.lookup_settings import NO_LOOKUPS, LookupSettings
from runtime.drafters.model_drafting import ModelDrafter
from runtime.rank.page_ledger import SlotLedger
from runtime.rank.shard import ShardRunner
from runtime.rank.toy_shard import PrefixShard, prefix_logits
from tests.support.rig import PAGE, VOCAB, Rig, expected_tokens, make_submit

MODES = ("autoregressive", "speculative", "pearl")
SAMPLINGS = (
    SamplingParams(),
    SamplingParams(temperature=0.8, seed=7),
    SamplingParams(temperature=1.0, top_k=5, seed=3),
    SamplingParams(temperature=0.9, top_p=0.8, min_p=0.02, seed=4),
    SamplingParams(temperature=1.0, repetition_penalty=1.3, seed=5),
    SamplingParams(repetition_penalty=1.5),
)
SHAPED = (
    SamplingParams(temperature=0.9, presence_penalty=0.8, frequency_penalty=0.6, seed=6),
    SamplingParams(frequency_penalty=1.5, logit_bias=((3, 2.0), (7, -5.0))),
)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("sampling", [*SAMPLINGS, *SHAPED], ids=str)
def test_every_mode_gives_the_tokens_of_the_target_alone(
    rig: Rig, mode: str, sampling: SamplingParams
) -> None:
    rig.attach_model()
    submit = make_submit(mode=mode, sampling=sampling)
    outcome = rig.run([submit])[0]
    assert outcome.token_ids == expected_tokens(submit)
    assert outcome.finished is not None
    stats = outcome.finished.stats
    assert (stats.drafted > 0) == (mode != "autoregressive")
    assert (stats.accepted > 0) == (mode != "autoregressive")
    assert stats.rounds <= len(outcome.token_ids)


@pytest.mark.parametrize("mode", ["speculative", "pearl"])
def test_a_perfect_drafter_is_never_rejected(rig: Rig, mode: str) -> None:
    rig.attach_model(noise=0.0)
    submit = make_submit(mode=mode, sampling=SamplingParams(temperature=1.0, seed=1))
    outcome = rig.run([submit])[0]
    assert outcome.token_ids == expected_tokens(submit)
    assert outcome.finished is not None
    assert outcome.finished.stats.rejected == 0
    assert outcome.finished.stats.rounds <= 24 / 4 + 2


@pytest.mark.parametrize("verifier", ["match", "rejection"])
@pytest.mark.parametrize("sampling", SAMPLINGS[:4], ids=str)
def test_a_model_that_also_copies_is_exact(
    rig: Rig, sampling: SamplingParams, verifier: str
) -> None:
    """Its copies of the prompt are wrong mostly, and mixed with what the model drafts well."""
    rig.attach_model(lookups=LookupSettings.parse("ngram"))
    submits = [
        make_submit(
            number,
            prompt=[5, 6, 7, 8] * number + [number] + [5, 6, 7],
            mode=mode,
            sampling=sampling,
            verifier=verifier,
        )
        for number, mode in enumerate(("speculative", "pearl", "speculative", "pearl"), start=1)
    ]
    outcomes = rig.run(submits)
    for submit in submits:
        outcome = outcomes[submit.request]
        if verifier == "match" or sampling.is_greedy:
            assert outcome.token_ids == expected_tokens(submit)
        assert outcome.finished is not None
        assert len(outcome.token_ids) == submit.max_tokens
        assert outcome.finished.stats.drafted > 0
        assert outcome.finished.stats.accepted > 0


def test_a_model_that_also_copies_drafts_no_more_than_it_must() -> None:
    shard = PrefixShard(VOCAB, page_size=PAGE)
    ledger = SlotLedger(num_pages=40, page_size=PAGE)
    drafter = ModelDrafter(
        ShardRunner(shard, SoloGroup()), ledger, lookups=LookupSettings.parse("ngram")
    )
    opened = DraftOpen(
        request=1,
        key=RngKey(seed=0, request=0),
        sampling=SamplingParams(),
        num_prompt=9,
        capacity=60,
        send_probs=False,
    )

    def draft(keep: int, tail: tuple[int, ...], *, first: bool = False) -> ProposalItem:
        item = DraftItem(request=1, epoch=0, keep=keep, tail=tail, num_draft=4)
        request = DraftRequest(round=1, opened=(opened,) if first else (), items=(item,))
        (part,) = drafter.answer(request)
        return part.items[0]

    assert draft(0, (1, 2, 3, 4, 9, 8, 1, 2, 3), first=True).token_ids == (4, 9, 8, 1)
    assert shard.num_forwards == 0
    found = draft(10, (11,))  # the copy was right once, then wrong: the model drafts
    history = (1, 2, 3, 4, 9, 8, 1, 2, 3, 4, 11)
    for place, token in enumerate(found.token_ids):
        prefix = (*history, *found.token_ids[:place])
        assert token == int(prefix_logits(prefix, VOCAB).argmax())
    assert len(found.token_ids) == 4
    assert shard.num_forwards == 4


def test_the_ngram_drafter_is_exact_and_accepted_on_repetition(rig: Rig) -> None:
    rig.attach_ngram()
    prompt = [5, 6, 7, 8] * 6
    submits = [
        make_submit(i, prompt=[*prompt, i], mode=mode, max_tokens=40)
        for i, mode in enumerate(("speculative", "pearl"))
    ]
    outcomes = rig.run(submits)
    for submit in submits:
        assert outcomes[submit.request].token_ids == expected_tokens(submit)


@pytest.mark.parametrize("verifier", ["match", "rejection"])
@pytest.mark.parametrize("draft_length", [6, None])
@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_trees_are_exact(
    rig: Rig, sampling: SamplingParams, draft_length: int | None, verifier: str
) -> None:
    """Twice each, so that what was recycled from the first run is right in the second."""
    rig.attach_lookup()
    submits = [
        make_submit(
            number,
            prompt=[5, 6, 7, 8] * (number % 4) + [5, 6, 7],
            mode="speculative",
            sampling=sampling,
            draft_length=draft_length,
            verifier=verifier,
        )
        for number in range(8)
    ]
    accepted = 0
    for some in (submits[:4], submits[4:]):
        outcomes = rig.run(some)
        for submit in some:
            outcome = outcomes[submit.request]
            assert outcome.finished is not None
            accepted += outcome.finished.stats.accepted
            assert len(outcome.token_ids) == submit.max_tokens
            if verifier == "match" or sampling.is_greedy:
                assert outcome.token_ids == expected_tokens(submit)
    assert accepted > 0 or draft_length is None  # it may choose to test nothing


@pytest.mark.parametrize("verifier", ["match", "rejection"])
@pytest.mark.parametrize("lookups", [NO_LOOKUPS, LookupSettings()], ids=["model", "merged"])
@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_trees_of_a_model_are_exact_and_accepted(
    rig: Rig, sampling: SamplingParams, lookups: LookupSettings, verifier: str
) -> None:
    rig.attach_model(lookups=lookups, grows_trees=True)
    submits = [
        make_submit(
            number,
            prompt=[5, 6, 7, 8] * (number % 4) + [5, 6, 7],
            mode=mode,
            sampling=sampling,
            draft_length=draft_length,
            verifier=verifier,
        )
        for number, (mode, draft_length) in enumerate(
            [
                ("speculative", 6),
                ("speculative", 1),
                ("pearl", 4),
                ("speculative", None),
                ("auto", 4),
            ]
        )
    ]
    outcomes = rig.run(submits)
    for submit in submits:
        outcome = outcomes[submit.request]
        assert outcome.finished is not None
        assert len(outcome.token_ids) == submit.max_tokens
        if submit.draft_length:
            assert outcome.finished.stats.accepted > 0
        if verifier == "match" or sampling.is_greedy:
            assert outcome.token_ids == expected_tokens(submit)
    assert not rig.errors


@pytest.mark.parametrize("sampling", SAMPLINGS[:3], ids=str)
def test_a_request_that_changes_its_mode_is_exact(
    rig: Rig, sampling: SamplingParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mode changes every seven rounds, with blocks in flight at the changes."""
    chosen: dict[int, list[str]] = defaultdict(list)

    def take_turns(_chooser: ModeChooser, request: int) -> DecodeMode:
        chosen[request].append(MODES[len(chosen[request]) // 7 % len(MODES)])
        return DecodeMode(chosen[request][-1])

    monkeypatch.setattr(ModeChooser, "choose", take_turns)
    rig.attach_model(lookups=LookupSettings(), grows_trees=True)
    submits = [
        make_submit(number, prompt=[5, number], mode="auto", sampling=sampling, max_tokens=150)
        for number in range(2)
    ]
    outcomes = rig.run(submits)
    assert [set(modes) for modes in chosen.values()] == [set(MODES)] * len(submits)
    for submit in submits:
        outcome = outcomes[submit.request]
        assert outcome.token_ids == expected_tokens(submit)
        assert outcome.finished is not None
        stats = outcome.finished.stats
        assert stats.accepted > 0
        assert stats.missed_drafts == 0
