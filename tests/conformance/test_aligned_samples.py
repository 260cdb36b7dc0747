"""Aligned samples are those of the algorithm's definition, one after the other in every mode."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from parallel.decoding.rng import request_key
from parallel.decoding.sampling import sample
from parallel.decoding.types import DecodeMode, RngKey, SamplingParams
from parallel.group import SoloGroup
from parallel.messages import Submit
from runtime.drafters.lookup_drafting import LookupDrafter
from runtime.drafters.lookups.lookup_settings import LookupSettings
from runtime.drafters.model_drafting import ModelDrafter
from runtime.rank.page_ledger import SlotLedger
from runtime.rank.shard import ShardRunner
from runtime.rank.toy_shard import PrefixShard, prefix_logits
from tests.support.aligned_toys import Reference
from tests.support.rig import PAGE, VOCAB, make_submit
from tests.support.toy_constraint import END, SPEC, START, ToyConstraints
from tests.support.virtual_engine import ScriptedDriver, VirtualEngine

MODES = [mode.value for mode in DecodeMode]
PROMPT = (4, 9, 9)
TEMPERATURE = 0.8


def submits_of(mode: str, num: int, *, verifier: str = "match") -> list[Submit]:
    aligned = replace(SPEC, align=True)
    return [
        make_submit(
            number,
            prompt=PROMPT,
            mode=mode,
            max_tokens=24,
            sampling=SamplingParams(constraint=aligned, temperature=TEMPERATURE, seed=number),
            draft_length=3,
            verifier=verifier,
        )
        for number in range(num)
    ]


def expected(submits: Sequence[Submit]) -> list[tuple[int, ...]]:
    """The aligned target alone, token by token, one request after the other."""
    reference, found = Reference(TEMPERATURE, (END,)), []
    for submit in submits:
        key = RngKey(seed=submit.sampling.seed, request=request_key(PROMPT, sample_index=0))
        output: tuple[int, ...] = ()
        state = START
        while len(output) < submit.max_tokens and output[-1:] != (END,):
            logits = prefix_logits((*PROMPT, *output), VOCAB)
            row = reference.weighed(output, logits, state)
            token = sample(row, SamplingParams(temperature=TEMPERATURE), key, len(output))
            output += (token,)
            state = state if token == END else state.advance(token)
        found.append(output)
    return found


def run(submits: Sequence[Submit], *, max_batch: int, drafter: str = "model") -> ScriptedDriver:
    engine = VirtualEngine(
        max_batch=max_batch, constraints=ToyConstraints(), eos_ids=frozenset((END,))
    )
    if drafter == "lookup":
        engine.attach(LookupDrafter(LookupSettings(), ToyConstraints()))
    else:
        runner = ShardRunner(PrefixShard(VOCAB, page_size=PAGE, noise=0.3), SoloGroup())
        ledger = SlotLedger(num_pages=400, page_size=PAGE)
        engine.attach(ModelDrafter(runner, ledger, constraints=ToyConstraints()))
    return engine.run(submits)


def outputs_of(driver: ScriptedDriver) -> list[tuple[int, ...]]:
    found = [driver.outcomes[submit.request] for submit in driver.submits]
    assert [one.failed for one in found] == [None] * len(found)
    return [tuple(one.token_ids) for one in found]


def num_accepted(driver: ScriptedDriver) -> int:
    ends = [one.finished for one in driver.outcomes.values()]
    return sum(end.stats.accepted for end in ends if end is not None)


@pytest.mark.parametrize("drafter", ["model", pytest.param("lookup", marks=pytest.mark.slow)])
@pytest.mark.parametrize("mode", MODES)
def test_every_mode_gives_the_samples_of_the_definition(mode: str, drafter: str) -> None:
    submits = submits_of(mode, 4)
    driver = run(submits, max_batch=1, drafter=drafter)
    assert outputs_of(driver) == expected(submits)
    assert (num_accepted(driver) > 0) == (mode != "autoregressive")


def test_a_sample_differs_by_what_earlier_ones_learned() -> None:
    submits = submits_of("pearl", 4)
    plain = [replace(one, sampling=replace(one.sampling, constraint=SPEC)) for one in submits]
    aligned, masked = (outputs_of(run(one, max_batch=1)) for one in (submits, plain))
    assert aligned[0] == masked[0]
    assert aligned[1:] != masked[1:]


@pytest.mark.parametrize("verifier", ["match", "rejection"])
def test_samples_of_one_prompt_run_side_by_side(verifier: str) -> None:
    driver = run(submits_of("speculative", 6, verifier=verifier), max_batch=6)
    for output in outputs_of(driver):
        state = START
        for token in output:
            if token != END:
                state = state.advance(token)
        assert state.is_complete or len(output) == 24
    assert num_accepted(driver) > 0


def test_a_resumed_sample_continues_where_others_have_been() -> None:
    submits = submits_of("pearl", 8)
    outputs = expected(submits)
    beginnings = [output[:2] for output in outputs]
    place = next(place for place in range(1, 8) if beginnings[place] in beginnings[:place])
    other, output = submits[place], outputs[place]
    resumed = replace(other, output_ids=output[:2])
    assert outputs_of(run([*submits[:place], resumed], max_batch=1))[-1] == output[2:]
    alone = replace(other, output_ids=output[:2])  # nothing is known where it continues
    (rest,) = outputs_of(run([alone], max_batch=1))
    assert len(rest) == 22 or rest[-1] == END
