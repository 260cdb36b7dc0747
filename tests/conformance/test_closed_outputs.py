"""Outputs that close within their budget are those of the target alone in every mode."""

from dataclasses import replace

import pytest
import torch

from parallel.decoding.closing import completion
from parallel.decoding.constraint import masked
from parallel.decoding.rng import request_key
from parallel.decoding.sampling import sample
from parallel.decoding.score_row import ScoreRow
from parallel.decoding.types import DecodeMode, RngKey, SamplingParams
from parallel.group import SoloGroup
from parallel.messages import Submit
from runtime.drafters.model_drafting import ModelDrafter
from runtime.rank.page_ledger import SlotLedger
from runtime.rank.shard import ShardRunner
from runtime.rank.toy_shard import PrefixShard, prefix_logits
from tests.support.automata import AutomatonState
from tests.support.rig import PAGE, VOCAB, make_submit
from tests.support.toy_constraint import END, SPEC, START, ToyConstraints
from tests.support.virtual_engine import ScriptedDriver, VirtualEngine

MODES = [mode.value for mode in DecodeMode]
CLOSED = replace(SPEC, close=True)
SHORTEST = len(completion(START, 99) or ())
SAMPLINGS = [
    SamplingParams(constraint=CLOSED),
    SamplingParams(constraint=CLOSED, temperature=0.8, seed=3),
    SamplingParams(constraint=CLOSED, temperature=0.8, repetition_penalty=1.3, seed=5),
]


class MasksAlone(ToyConstraints):
    """A constraint of which no completions are known."""

    class State:
        def __init__(self, inner: AutomatonState) -> None:
            self.is_complete, self.mask, self.forced = inner.is_complete, inner.mask, inner.forced
            self._inner = inner

        def advance(self, token: int) -> "MasksAlone.State":
            return MasksAlone.State(self._inner.advance(token))

    def __init__(self) -> None:
        super().__init__(self.State(START))


def closed_tokens(submit: Submit) -> list[int]:
    """The target alone, among the tokens after which some completion fits."""
    tokens, state = list(submit.prompt_ids), START
    key = RngKey(seed=submit.sampling.seed, request=request_key(submit.prompt_ids, sample_index=0))
    for position in range(submit.max_tokens):
        row = masked(ScoreRow(prefix_logits(tokens, VOCAB), None), state, (END,))
        left = submit.max_tokens - position - 1
        for token in torch.isfinite(row.logits).nonzero().flatten().tolist():
            if token != END and state.advance(token).completion(left) is None:
                row.logits[token] = -torch.inf
        tokens.append(sample(row, submit.sampling, key, position, tokens))
        if tokens[-1] == END:
            break
        state = state.advance(tokens[-1])
    assert state.is_complete
    return tokens[len(submit.prompt_ids) :]


def submits_of(mode: str, verifier: str = "match") -> list[Submit]:
    return [
        make_submit(
            number,
            prompt=[number, 9, 9],
            mode=mode,
            max_tokens=SHORTEST + number,
            sampling=SAMPLINGS[number % len(SAMPLINGS)],
            draft_length=3,
            verifier=verifier,
        )
        for number in range(9)
    ]


def run(submits: list[Submit], constraints: ToyConstraints) -> ScriptedDriver:
    engine = VirtualEngine(max_batch=4, constraints=constraints, eos_ids=frozenset((END,)))
    runner = ShardRunner(PrefixShard(VOCAB, page_size=PAGE, noise=0.3), SoloGroup())
    ledger = SlotLedger(num_pages=400, page_size=PAGE)
    engine.attach(ModelDrafter(runner, ledger, constraints=ToyConstraints()))
    return engine.run(submits)


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_completes_outputs_alike(mode: str) -> None:
    driver = run(submits_of(mode), ToyConstraints())
    accepted = 0
    for submit in driver.submits:
        outcome = driver.outcomes[submit.request]
        assert outcome.finished is not None, outcome.failed
        assert outcome.token_ids == closed_tokens(submit)
        assert outcome.finished.complete
        accepted += outcome.finished.stats.accepted
    assert (accepted > 0) == (mode != "autoregressive")


def test_rejection_completes_outputs_too() -> None:
    driver = run(submits_of("speculative", "rejection"), ToyConstraints())
    for submit in driver.submits:
        outcome = driver.outcomes[submit.request]
        assert outcome.finished is not None, outcome.failed
        assert outcome.finished.complete
        assert len(outcome.token_ids) <= submit.max_tokens


def test_a_resumed_output_is_completed_as_if_it_had_not_been_cut() -> None:
    submits = [
        replace(submit, output_ids=tuple(closed_tokens(submit)[:4]))
        for submit in submits_of("pearl")
    ]
    driver = run(submits, ToyConstraints())
    for submit in submits:
        outcome = driver.outcomes[submit.request]
        assert [*submit.output_ids, *outcome.token_ids] == closed_tokens(submit)


def test_what_cannot_be_completed_is_rejected_by_name() -> None:
    short = replace(submits_of("pearl")[0], max_tokens=SHORTEST - 1)
    failed = run([short], ToyConstraints()).outcomes[0].failed
    assert failed is not None
    assert f"`max_tokens`, which leaves {SHORTEST - 1} tokens: the shortest" in failed.message
    assert f"has {SHORTEST}" in failed.message
    failed = run(submits_of("pearl")[:1], MasksAlone()).outcomes[0].failed
    assert failed is not None
    assert "`close` cannot be kept, since no text that completes" in failed.message
