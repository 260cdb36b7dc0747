"""Under a constraint, every mode gives the tokens of the constrained target alone."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from parallel.decoding.types import DecodeMode, SamplingParams
from parallel.group import SoloGroup
from parallel.messages import RequestStats, Submit
from runtime.constraints.compiler import Constraints
from runtime.drafters.drafting import Drafter
from runtime.drafters.lookup_drafting import LookupDrafter
from runtime.drafters.lookups.lookup_settings import LookupSettings
from runtime.drafters.model_drafting import ModelDrafter
from runtime.rank.page_ledger import SlotLedger
from runtime.rank.shard import ShardRunner
from runtime.rank.toy_shard import PrefixShard
from tests.support.automata import AutomatonState, text
from tests.support.rig import PAGE, VOCAB, expected_tokens, make_submit
from tests.support.toy_constraint import END, SPEC, TOKENS, ToyConstraints, constrained_tokens
from tests.support.virtual_engine import Fate, ScriptedDriver, VirtualEngine

MODES = [mode.value for mode in DecodeMode]
SAMPLINGS = [
    SamplingParams(constraint=SPEC),
    SamplingParams(constraint=SPEC, temperature=0.8, seed=3),
    SamplingParams(constraint=SPEC, temperature=0.8, top_k=5, top_p=0.9, seed=4),
    SamplingParams(
        constraint=SPEC, temperature=0.8, repetition_penalty=1.3, logit_bias=((END, 4.0),), seed=5
    ),
]
FATES = {"lost": [Fate.ARRIVES, Fate.LOST] * 3, "dies": [*[Fate.ARRIVES] * 4, Fate.DIES]}
KINDS = ["model", "lookup", "trees"]


def drafter(kind: str, constraints: Constraints | None) -> Drafter:
    if kind == "lookup":
        return LookupDrafter(LookupSettings(), constraints)
    runner = ShardRunner(PrefixShard(VOCAB, page_size=PAGE, noise=0.3), SoloGroup())
    ledger = SlotLedger(num_pages=400, page_size=PAGE)
    if kind == "model":
        return ModelDrafter(runner, ledger, constraints=constraints)
    return ModelDrafter(
        runner, ledger, lookups=LookupSettings(), grows_trees=True, constraints=constraints
    )


def submits_of(
    mode: str, num: int = 2, *, max_tokens: int = 30, verifier: str = "match"
) -> list[Submit]:
    return [
        make_submit(
            number,
            prompt=[number % VOCAB, 9, 9],
            mode=mode,
            max_tokens=max_tokens,
            sampling=SAMPLINGS[number % len(SAMPLINGS)],
            draft_length=4 if number % 2 else None,
            verifier=verifier,
        )
        for number in range(num)
    ]


def engine_of(**options: int) -> VirtualEngine:
    return VirtualEngine(
        **{"max_batch": 3, **options},  # type: ignore[arg-type]  # all of them are numbers
        constraints=ToyConstraints(),
        eos_ids=frozenset((END,)),
    )


def checked(driver: ScriptedDriver) -> list[RequestStats]:
    """Compare each output with the constrained target alone; return the statistics."""
    found = []
    for submit in driver.submits:
        outcome = driver.outcomes[submit.request]
        assert outcome.finished is not None, outcome.failed
        expected, is_complete = constrained_tokens(submit)
        assert [*submit.output_ids, *outcome.token_ids] == expected
        assert outcome.finished.complete == is_complete
        assert outcome.finished.reason == ("stop" if expected[-1] == END else "length")
        found.append(outcome.finished.stats)
    return found


def sums(stats: Sequence[RequestStats]) -> tuple[int, int, int]:
    return (
        sum(one.rounds for one in stats),
        sum(one.drafted for one in stats),
        sum(one.accepted for one in stats),
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", MODES)
def test_every_mode_gives_the_tokens_of_the_constrained_target_alone(mode: str, kind: str) -> None:
    engine = engine_of()
    engine.attach(drafter(kind, ToyConstraints()))
    _, drafted, accepted = sums(checked(engine.run(submits_of(mode))))
    drafts = mode != "autoregressive"
    assert (drafted > 0) == (accepted > 0) == drafts


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "autoregressive"])
def test_drafts_that_ignore_the_constraint_are_rejected_and_nothing_else_changes(mode: str) -> None:
    engine = engine_of()
    engine.attach(drafter("model", None))
    _, drafted, accepted = sums(checked(engine.run(submits_of(mode))))
    assert drafted > accepted > 0


@pytest.mark.slow
@pytest.mark.parametrize("fate", FATES)
@pytest.mark.parametrize("knows", [True, False])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", MODES)
def test_no_loss_of_drafts_changes_a_token(mode: str, kind: str, fate: str, *, knows: bool) -> None:
    engine = engine_of()
    engine.attach(drafter(kind, ToyConstraints() if knows else None), fates=FATES[fate])
    _, drafted, _ = sums(checked(engine.run(submits_of(mode, 16, max_tokens=60))))
    if kind != "lookup" or knows:
        assert (drafted > 0) == (mode != "autoregressive")


@pytest.mark.parametrize(
    "mode", ["pearl", *(pytest.param(mode, marks=pytest.mark.slow) for mode in MODES)]
)
def test_preempted_requests_keep_to_their_constraint(mode: str) -> None:
    engine = engine_of(num_pages=50, max_batch=8, prefill_chunk=5)
    engine.attach(drafter("model", ToyConstraints()))
    endless = replace(SAMPLINGS[1], logit_bias=((END, -100.0),))
    submits = [
        replace(submit, sampling=endless, prompt_ids=submit.prompt_ids * 4)
        for submit in submits_of(mode, 6, max_tokens=100)
    ]
    stats = checked(engine.run(submits))
    assert sum(one.preemptions for one in stats) > 0


@pytest.mark.parametrize("mode", MODES)
def test_resumed_requests_continue_under_their_constraint(mode: str) -> None:
    engine = engine_of()
    engine.attach(drafter("trees", ToyConstraints()))
    submits = [
        replace(submit, output_ids=tuple(constrained_tokens(submit)[0][: 3 + submit.request]))
        for submit in submits_of(mode)
    ]
    assert (sums(checked(engine.run(submits)))[2] > 0) == (mode != "autoregressive")


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "autoregressive"])
def test_greedy_outputs_are_the_same_with_rejection(mode: str) -> None:
    engine = engine_of()
    engine.attach(drafter("model", ToyConstraints()))
    greedy = [
        replace(submit, sampling=SAMPLINGS[0]) for submit in submits_of(mode, verifier="rejection")
    ]
    assert sums(checked(engine.run(greedy)))[2] > 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "autoregressive"])
def test_an_output_that_may_only_end_too_early_fails_and_leaves_others_their_drafter(
    mode: str, kind: str
) -> None:
    constraints = ToyConstraints(AutomatonState(text("key=ab;val1;"), TOKENS))
    engine = VirtualEngine(max_batch=3, constraints=constraints, eos_ids=frozenset((END,)))
    engine.attach(drafter(kind, constraints))
    early = make_submit(
        1, mode=mode, sampling=SamplingParams(constraint=SPEC, min_tokens=30), max_tokens=60
    )
    other = replace(make_submit(2, prompt=[5, 6, 7] * 6, mode=mode, max_tokens=60), ignore_eos=True)
    driver = engine.run([early, other])
    failed, finished = driver.outcomes[1].failed, driver.outcomes[2].finished
    assert failed is not None
    assert "which `min_tokens` forbids" in failed.message
    assert finished is not None
    assert not finished.stats.drafter_lost
    assert driver.outcomes[2].token_ids == expected_tokens(other)
    assert finished.stats.drafted > 0


def test_a_drafter_that_knows_the_constraint_is_accepted_more_often() -> None:
    found = {}
    for knows in (True, False):
        engine = engine_of()
        engine.attach(drafter("model", ToyConstraints() if knows else None))
        found[knows] = sums(checked(engine.run(submits_of("speculative"))))
    assert found[True][0] < 0.7 * found[False][0]


def test_forced_text_alone_saves_rounds() -> None:
    engine = engine_of()
    engine.attach(drafter("lookup", ToyConstraints()))
    rounds, _, _ = sums(checked(engine.run(submits_of("speculative"))))
    alone = sum(len(constrained_tokens(submit)[0]) for submit in submits_of("speculative"))
    assert rounds < 0.8 * alone
