"""Several drafters share the outcomes of a verdict: more hits, and never a new token."""

import random
from dataclasses import replace

import pytest

from parallel.decoding.types import SamplingParams
from parallel.group import SoloGroup
from parallel.messages import DraftRequest, EngineStatus, RequestStats
from runtime.drafters.lookup_drafting import LookupDrafter
from runtime.drafters.lookups.lookup_settings import LookupSettings
from runtime.drafters.model_drafting import ModelDrafter
from runtime.links.codec import decode
from runtime.rank.page_ledger import SlotLedger
from runtime.rank.shard import ShardRunner
from runtime.rank.toy_shard import PrefixShard
from tests.support.rig import PAGE, VOCAB, expected_tokens, make_submit
from tests.support.virtual_engine import Fate, ScriptedDriver, Times, VirtualEngine

SAMPLINGS = (SamplingParams(), SamplingParams(temperature=1.0, seed=7))
NEAR = Times(latency_s=0.0)


def model() -> ModelDrafter:
    runner = ShardRunner(PrefixShard(VOCAB, page_size=PAGE, noise=1.2), SoloGroup())
    return ModelDrafter(runner, SlotLedger(num_pages=400, page_size=PAGE))


def serve(
    engine: VirtualEngine,
    *,
    num: int = 1,
    mode: str = "outcomes",
    sampling: SamplingParams | None = None,
    max_tokens: int = 40,
) -> ScriptedDriver:
    """Serve requests, and check that each gets the tokens of the target alone."""
    submits = [
        make_submit(n, prompt=[n, 9, 9], mode=mode, sampling=sampling, max_tokens=max_tokens)
        for n in range(num)
    ]
    driver = engine.run(submits)
    for submit in submits:
        assert driver.outcomes[submit.request].token_ids == expected_tokens(submit)
    return driver


def stats_of(driver: ScriptedDriver, request: int = 0) -> RequestStats:
    finished = driver.outcomes[request].finished
    assert finished is not None
    return finished.stats


def status_of(driver: ScriptedDriver) -> EngineStatus:
    assert driver.status is not None
    return driver.status.status


def engine_with(*fates: list[Fate], max_batch: int = 4) -> VirtualEngine:
    """Return an engine with a drafter for each list of fates."""
    engine = VirtualEngine(max_batch=max_batch, times=NEAR)
    for each in fates:
        engine.attach(model(), fates=each, joins=True)
    return engine


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_three_drafters_of_one_request_hit_more_often_than_one(sampling: SamplingParams) -> None:
    found = {}
    for num_drafters in (1, 3):
        driver = serve(engine_with(*[[]] * num_drafters), sampling=sampling)
        assert status_of(driver).drafter_faults == 0
        found[num_drafters] = stats_of(driver)
    one, three = found[1], found[3]
    assert three.guesses > 1.5 * one.guesses
    assert three.hits / three.rounds > 1.1 * one.hits / one.rounds
    assert three.recovered_hits > one.recovered_hits
    assert three.rounds < one.rounds


@pytest.mark.parametrize("dying", range(3))
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_a_drafter_that_dies_at_any_moment_costs_a_round_at_most(
    sampling: SamplingParams, dying: int
) -> None:
    """Four moments of each; two drafters from the start are the worst that it may be like."""
    always_two = stats_of(serve(engine_with([], []), sampling=sampling)).rounds
    chooser = random.Random(dying)
    for _ in range(4):
        fates: list[list[Fate]] = [[], [], []]
        fates[dying] = [Fate.ARRIVES] * chooser.randrange(1, 10) + [Fate.DIES]
        driver = serve(engine_with(*fates), sampling=sampling)
        assert status_of(driver).drafter_losses == 1
        assert status_of(driver).drafters == 2
        assert stats_of(driver).missed_drafts <= 1
        assert stats_of(driver).rounds <= always_two + 1


def test_late_and_lost_answers_of_those_that_share_delay_nothing() -> None:
    alone = stats_of(serve(engine_with([])))
    for fate in (Fate.LATE, Fate.LOST):
        engine = engine_with([], [Fate.ARRIVES, fate] * 6, [fate] * 12)
        driver = serve(engine)
        assert stats_of(driver).missed_drafts == 0
        assert stats_of(driver).total_s < 1.05 * alone.total_s


def test_each_request_has_a_drafter_before_any_has_two() -> None:
    """Four requests on three drafters share nothing; on six, two have two drafters."""
    guesses = {}
    for num_drafters in (3, 6):
        driver = serve(engine_with(*[[]] * num_drafters), num=4)
        each = [stats_of(driver, request) for request in range(4)]
        guesses[num_drafters] = sorted(stats.guesses / stats.rounds for stats in each)
    assert guesses[6][1] < 1.2 * guesses[3][3]
    assert guesses[6][2] > 1.4 * guesses[3][3]


def test_drafters_move_on_when_requests_end_and_come() -> None:
    engine = engine_with([], [], max_batch=2)
    submits = [
        make_submit(n, prompt=[n, 9, 9], mode="outcomes", max_tokens=20 + 30 * (n % 2))
        for n in range(6)
    ]
    driver = engine.run(submits)
    for submit in submits:
        assert driver.outcomes[submit.request].token_ids == expected_tokens(submit)
    assert status_of(driver).drafter_faults == 0


def test_other_modes_share_nothing() -> None:
    for mode in ("pearl", "speculative"):
        lines = {}
        for num_drafters in (1, 3):
            engine = engine_with(*[[]] * num_drafters)
            serve(engine, mode=mode)
            lines[num_drafters] = [line for line in engine.log.lines if " ask" in line[0]]
        assert len(lines[3]) == len(lines[1])


def test_with_rejection_the_outcome_is_the_blocks_alone_and_nothing_is_shared() -> None:
    submit = make_submit(
        0, mode="outcomes", verifier="rejection", sampling=SAMPLINGS[1], max_tokens=60
    )
    engine = engine_with([], [], [])
    stats = stats_of(engine.run([submit]))
    assert stats.guesses <= stats.rounds
    assert stats.accepted > 0


def test_a_look_up_that_shares_has_no_outcomes_and_no_faults() -> None:
    engine = engine_with([])
    engine.attach(LookupDrafter(LookupSettings()), joins=True)
    driver = serve(engine)
    assert status_of(driver).drafter_faults == 0
    assert stats_of(driver).hits > 0


def test_one_that_shares_and_loses_its_cache_is_sent_the_request_again() -> None:
    forgetful = model()
    engine = VirtualEngine(times=NEAR)
    engine.attach(model(), joins=True)
    engine.attach(forgetful, joins=True)
    submit = make_submit(0, mode="outcomes", max_tokens=60)
    started = engine.rounds.count
    rounds = 0

    def count(commit):  # type: ignore[no-untyped-def]  # as RoundRunner's
        nonlocal rounds
        rounds += 1
        if rounds == 8:
            forgetful._model.close(1)  # what no message of the leader's does
        started(commit)

    engine.rounds.count = count  # type: ignore[method-assign]
    driver = engine.run([replace(submit)])
    assert driver.outcomes[0].token_ids == expected_tokens(submit)
    assert rounds > 8
    assert status_of(driver).drafter_faults == 0
    asked = [decode(bytes.fromhex(data)) for what, data in engine.log.lines if " ask" in what]
    requests = [message for message in asked if isinstance(message, DraftRequest)]
    assert sum(len(request.opened) for request in requests) == 3
