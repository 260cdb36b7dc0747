"""The leader's rounds, in virtual time, against the target alone: whatever the drafter does."""

from dataclasses import replace
from itertools import product

import pytest

from parallel.decoding.types import DecodeMode, SamplingParams
from parallel.group import SoloGroup
from runtime.drafters.drafting import Drafter
from runtime.drafters.lookup_drafting import LookupDrafter
from runtime.drafters.lookups.lookup_settings import LookupSettings
from runtime.drafters.model_drafting import ModelDrafter
from runtime.rank.page_ledger import SlotLedger
from runtime.rank.shard import ShardRunner
from runtime.rank.toy_shard import PrefixShard
from tests.support.rig import PAGE, VOCAB, expected_tokens, make_submit
from tests.support.virtual_engine import Fate, ScriptedDriver, Times, VirtualEngine

MODES = tuple(DecodeMode)
SAMPLINGS = (
    SamplingParams(),
    SamplingParams(temperature=0.8, seed=7),
    SamplingParams(temperature=0.9, top_p=0.8, min_p=0.02, seed=4),
    SamplingParams(temperature=1.0, repetition_penalty=1.3, seed=5),
    SamplingParams(temperature=0.9, presence_penalty=0.8, frequency_penalty=0.6, seed=6),
    SamplingParams(temperature=0.9, logit_bias=((3, 2.0), (7, -5.0)), seed=8),
)
FATES = {
    "arrives": [],
    "late": [Fate.ARRIVES, Fate.LATE] * 4,
    "lost": [Fate.ARRIVES, Fate.LOST, Fate.LOST] * 4,
    "dies": [Fate.ARRIVES, Fate.ARRIVES, Fate.DIES],
}


def drafter(kind: str) -> Drafter:
    if kind == "lookup":
        return LookupDrafter(LookupSettings())
    runner = ShardRunner(PrefixShard(VOCAB, page_size=PAGE, noise=0.3), SoloGroup())
    ledger = SlotLedger(num_pages=400, page_size=PAGE)
    if kind == "model":
        return ModelDrafter(runner, ledger)
    return ModelDrafter(runner, ledger, lookups=LookupSettings(), grows_trees=True)


def check(driver: ScriptedDriver, engine: VirtualEngine) -> None:
    """Every request ends with the tokens of the target alone."""
    for submit in driver.submits:
        outcome = driver.outcomes[submit.request]
        assert outcome.finished is not None, outcome.failed
        assert outcome.token_ids == expected_tokens(submit)
    assert driver.status is not None
    assert driver.status.status.rounds == engine.rounds.totals.rounds


@pytest.mark.parametrize("fate", FATES)
@pytest.mark.parametrize("kind", ["model", "lookup", "trees"])
@pytest.mark.parametrize("mode", MODES)
def test_every_mode_gives_the_tokens_of_the_target_alone(mode: str, kind: str, fate: str) -> None:
    engine = VirtualEngine(max_batch=3)
    engine.attach(drafter(kind), fates=FATES[fate])
    submits = [
        replace(
            make_submit(number, prompt=[number, 9, 9], mode=mode, sampling=sampling),
            draft_length=length,
        )
        for number, (sampling, length) in enumerate(product(SAMPLINGS, [4, None]))
    ]
    driver = engine.run(submits)
    check(driver, engine)
    stats = [o.finished.stats for o in driver.outcomes.values() if o.finished is not None]
    if kind != "lookup":
        drafted = sum(stat.drafted for stat in stats)
        assert (drafted > 0) == (mode != "autoregressive")
    if fate in ("late", "lost") and mode != "autoregressive":
        assert sum(stat.missed_drafts for stat in stats) > 0


@pytest.mark.parametrize("mode", MODES)
def test_preempted_requests_end_with_the_tokens_of_the_target_alone(mode: str) -> None:
    engine = VirtualEngine(num_pages=50, max_batch=8, prefill_chunk=5)
    engine.attach(drafter("model"))
    engine.attach(drafter("lookup"), joins=True)
    submits = [
        make_submit(n, prompt=[n, 9, 9] * 4, max_tokens=100, mode=mode, sampling=SAMPLINGS[n % 4])
        for n in range(6)
    ]
    driver = engine.run(submits)
    check(driver, engine)
    assert driver.status is not None
    assert driver.status.status.preemptions > 0


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("verifier", ["match", "rejection"])
def test_drafts_for_many_outcomes_need_fewer_rounds_than_pearls_one(
    sampling: SamplingParams, verifier: str
) -> None:
    rounds = {}
    for mode in ("pearl", "outcomes"):
        engine = VirtualEngine(max_batch=4, times=Times(latency_s=0.0))
        engine.attach(drafter("model"))
        submits = [
            make_submit(
                n, prompt=[n, 9, 9], mode=mode, sampling=sampling, verifier=verifier, max_tokens=60
            )
            for n in range(4)
        ]
        driver = engine.run(submits)
        if verifier == "match" or sampling.is_greedy:
            check(driver, engine)
        ended = [o.finished.stats for o in driver.outcomes.values() if o.finished is not None]
        assert len(ended) == 4
        assert driver.status is not None
        assert driver.status.status.drafter_faults == 0
        rounds[mode] = sum(stats.rounds for stats in ended)
    gains = verifier == "match" or sampling.is_greedy  # otherwise the outcome is PEARL's alone
    assert rounds["outcomes"] < (0.85 if gains else 1.06) * rounds["pearl"]


def test_a_run_repeats_itself_message_by_message() -> None:
    logs = []
    for _ in range(2):
        engine = VirtualEngine(times=Times(latency_s=2.0))
        engine.attach(drafter("trees"), fates=FATES["late"])
        engine.run([make_submit(n, prompt=[n, 1], mode=mode) for n, mode in enumerate(MODES)])
        logs.append(engine.log.lines)
    assert logs[0] == logs[1]
    assert len(logs[0]) > 50
