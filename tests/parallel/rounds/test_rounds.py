"""Whole generations in the state machine: exact in distribution, token for token under faults."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from parallel.decoding import verify as verify_module
from parallel.decoding.modes.mode_registry import FIXED_MODES, policy_of
from parallel.decoding.rng import Purpose, uniform
from parallel.decoding.round_state import (
    AwaitDraft,
    BeginRound,
    Command,
    Commit,
    DraftArrived,
    DraftMissed,
    Event,
    RequestDraft,
    Score,
    Stage,
    State,
    Verified,
    Verify,
)
from parallel.decoding.sampling import sample
from parallel.decoding.score_row import ScoreRow
from parallel.decoding.types import (
    DecodeMode,
    DraftTree,
    NodeKind,
    RngKey,
    SamplingParams,
    SparseProbs,
)
from parallel.decoding.verify import (
    Verifier,
    draft_token,
    draft_token_with_probs,
    recursive_rejection,
    sample_and_match,
)
from parallel.rounds.machine import start, step

SAMPLED = SamplingParams(temperature=1.0)
Rows = Callable[[int], ScoreRow]
"""The row after a token."""


def rows_of(*token_probs: tuple[float, ...]) -> Rows:
    """Return a Markov toy: one distribution for each last token, or one for all."""
    rows = [ScoreRow(torch.tensor(next_probs).log(), None) for next_probs in token_probs]
    return lambda last: rows[last % len(rows)]


FLAT_TARGET, FLAT_DRAFTER = (0.6, 0.3, 0.1), (0.3, 0.5, 0.2)
MARKOV_TARGET = ((0.6, 0.3, 0.1), (0.2, 0.2, 0.6), (0.5, 0.25, 0.25))
MARKOV_DRAFTER = ((0.3, 0.5, 0.2), (0.3, 0.3, 0.4), (0.2, 0.3, 0.5))


@dataclass(frozen=True, kw_only=True)
class Fate:
    """What happens to one round's draft."""

    length: int = 3
    missed: bool = False
    arrives: int = 99
    """Tokens of the draft that arrive."""
    stale: bool = False
    duplicate: bool = False
    as_point: bool = False
    """The drafter answers with made-up POINT tokens instead of its own."""


@dataclass
class Generation:
    """One sequence with a toy target and a toy drafter, round by round."""

    mode: DecodeMode
    verifier: Verifier
    target: Rows
    drafter: Rows
    key: RngKey
    params: SamplingParams = SAMPLED
    token_ids: list[int] = field(default_factory=lambda: [0])
    commits: list[Commit] = field(default_factory=list)
    stage: Stage = Stage.PRE_VERIFY

    def __post_init__(self) -> None:
        self.state: State = start(
            request=0, mode=self.mode, num_committed=1, last_token=self.token_ids[0]
        )
        self._score: Score | None = None
        self._wanted: RequestDraft | None = None

    def round(self, fate: Fate) -> None:
        self.stage = self.state.stage
        commands = list(self._take(BeginRound(draft_length=fate.length)))
        while commands:
            match command := commands.pop(0):
                case RequestDraft():
                    self._wanted = command
                case Score():
                    self._check(command)
                    self._score = command
                case AwaitDraft():
                    commands += self._deliver(fate)
                case Verify():
                    commands += self._verify(command)
                case Commit():
                    self.commits.append(command)
                    self.token_ids += command.token_ids

    def _take(self, event: Event) -> tuple[Command, ...]:
        epoch = self.state.epoch
        self.state, commands = step(self.state, event)
        assert self.state.epoch >= epoch
        return commands

    def _check(self, score: Score) -> None:
        assert score.start == len(self.token_ids) - 1  # never more than that is cached
        assert score.token_ids[0] == self.token_ids[-1]
        assert score.num_logits == len(score.token_ids)

    def _deliver(self, fate: Fate) -> tuple[Command, ...]:
        wanted = self._wanted
        assert wanted is not None
        if fate.stale:
            old = DraftArrived(epoch=wanted.epoch - 1, base=wanted.base, draft=self._draft(fate))
            assert self._take(old) == ()
        if fate.missed:
            return self._take(DraftMissed())
        event = DraftArrived(epoch=wanted.epoch, base=wanted.base, draft=self._draft(fate))
        commands = self._take(event)
        if fate.duplicate:
            assert self._take(event) == ()
        return commands

    def _draft(self, fate: Fate) -> DraftTree:
        known = self.token_ids + list(self.state.in_flight.token_ids)
        num, token_probs = min(fate.length, fate.arrives), list[SparseProbs]()
        if fate.as_point:
            return DraftTree.chain((1,) * num)
        for _ in range(num):
            row, position = self.drafter(known[-1]), len(known) - 1
            if self.verifier is sample_and_match:
                known.append(draft_token(row, self.params, self.key, position, known))
            else:
                token, next_probs = draft_token_with_probs(
                    row, self.params, self.key, position, known
                )
                known.append(token)
                token_probs.append(next_probs)
        return DraftTree.chain(tuple(known[len(known) - num :]), tuple(token_probs))

    def _verify(self, verify: Verify) -> tuple[Command, ...]:
        assert self._score is not None
        rows = [self.target(token) for token in self._score.token_ids]
        verdict = self.verifier(
            verify.draft,
            rows[: verify.num_rows],
            self.params,
            self.key,
            len(self.token_ids) - 1,
            self.token_ids,
        )
        return self._take(Verified(verdict=verdict))


def follows(tokens: list[int], token_probs: tuple[tuple[float, ...], ...]) -> float:
    """Return the p-value of a chain's transitions (Billingsley's chi-square for Markov chains)."""
    size = len(token_probs[0])
    counts = np.zeros((size, size))
    np.add.at(counts, (tokens[:-1], tokens[1:]), 1)
    probs = np.array([token_probs[i % len(token_probs)] for i in range(size)])
    expected = counts.sum(axis=1, keepdims=True) * probs
    statistic = ((counts - expected) ** 2 / expected).sum()
    return float(chi2.sf(statistic, size * (size - 1)))


def long_generation(generation: Generation, num_tokens: int, length: int = 2) -> list[int]:
    while len(generation.token_ids) < num_tokens:
        generation.round(Fate(length=length))
    return generation.token_ids[1:]


@pytest.mark.parametrize("verifier", [sample_and_match, recursive_rejection])
@pytest.mark.parametrize("mode", [DecodeMode.PEARL, DecodeMode.SPECULATIVE])
def test_transitions_of_a_markov_target_follow_its_distribution(
    mode: DecodeMode, verifier: Verifier
) -> None:
    generation = Generation(
        mode=mode,
        verifier=verifier,
        target=rows_of(*MARKOV_TARGET),
        drafter=rows_of(*MARKOV_DRAFTER),
        key=RngKey(seed=3, request=1),
    )
    tokens = long_generation(generation, 30_000)
    assert follows(tokens, MARKOV_TARGET) > 1e-4
    accepted = sum(commit.num_accepted for commit in generation.commits)
    assert accepted > 10_000  # it did speculate


def pairs(verifier: Verifier, num: int, mode: DecodeMode = DecodeMode.PEARL) -> list[list[int]]:
    """Return the first two tokens of `num` requests with the context-free toy."""
    target, drafter = rows_of(FLAT_TARGET), rows_of(FLAT_DRAFTER)
    outputs = []
    for request in range(num):
        generation = Generation(
            mode=mode,
            verifier=verifier,
            target=target,
            drafter=drafter,
            key=RngKey(seed=0, request=request),
        )
        while len(generation.token_ids) < 3:
            generation.round(Fate(length=2))
        outputs.append(generation.token_ids[1:3])
    return outputs


def pair_counts(outputs: list[list[int]]) -> np.ndarray:
    counts = np.zeros((3, 3))
    np.add.at(counts, tuple(np.array(outputs).T), 1)
    return counts


def pair_p_value(counts: np.ndarray) -> float:
    expected = np.outer(FLAT_TARGET, FLAT_TARGET) * counts.sum()
    return float(chi2.sf(((counts - expected) ** 2 / expected).sum(), 8))


@pytest.mark.parametrize("mode", [DecodeMode.PEARL, DecodeMode.SPECULATIVE])
@pytest.mark.parametrize("verifier", [sample_and_match, recursive_rejection])
def test_two_token_outputs_of_many_requests_are_exact(mode: DecodeMode, verifier: Verifier) -> None:
    assert pair_p_value(pair_counts(pairs(verifier, 30_000, mode))) > 1e-4


@pytest.mark.parametrize("mode", [DecodeMode.PEARL, DecodeMode.SPECULATIVE])
@pytest.mark.parametrize("verifier", [sample_and_match, recursive_rejection])
def test_long_outputs_of_the_context_free_toy_are_exact(
    mode: DecodeMode, verifier: Verifier
) -> None:
    generation = Generation(
        mode=mode,
        verifier=verifier,
        target=rows_of(FLAT_TARGET),
        drafter=rows_of(FLAT_DRAFTER),
        key=RngKey(seed=8, request=1),
    )
    assert follows(long_generation(generation, 30_000), (FLAT_TARGET,)) > 1e-4


def test_one_number_rule_a_number_reused_for_two_positions_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """PEARL's published code: the first test after pre-verify reads pre-verify's number again."""
    running: list[Generation] = []

    def reused(key: RngKey, position: int, purpose: Purpose, *, index: int = 0) -> float:
        post_verify = running[-1].stage is Stage.POST_VERIFY
        back = purpose is Purpose.ACCEPT and post_verify
        return uniform(key, position - back, purpose, index=index)

    begin_round = Generation.round

    def observed_round(generation: Generation, fate: Fate) -> None:
        running[:] = [generation]
        begin_round(generation, fate)

    monkeypatch.setattr(Generation, "round", observed_round)
    monkeypatch.setattr(verify_module, "uniform", reused)
    counts = pair_counts(pairs(recursive_rejection, 2500))
    assert pair_p_value(counts) < 1e-20
    distance = abs(counts / 2500 - np.outer(FLAT_TARGET, FLAT_TARGET)).sum() / 2
    assert distance == pytest.approx(0.11, abs=0.03)
    assert counts.sum(axis=0) / 2500 == pytest.approx(np.array([0.49, 0.38, 0.13]), abs=0.03)


FATES = st.builds(
    Fate,
    length=st.integers(0, 5),
    missed=st.booleans(),
    arrives=st.integers(0, 6),
    stale=st.booleans(),
    duplicate=st.booleans(),
    as_point=st.booleans(),
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    fates=st.lists(FATES, min_size=1, max_size=12),
    mode=st.sampled_from(FIXED_MODES),
    params=st.sampled_from(
        [
            SAMPLED,
            SamplingParams(),
            SamplingParams(temperature=0.8, repetition_penalty=1.5),
            SamplingParams(temperature=0.8, frequency_penalty=1.1, min_tokens=4, end_ids=(1,)),
        ]
    ),
    request=st.integers(0, 2**64 - 1),
)
def test_no_schedule_of_faults_changes_a_token(
    fates: list[Fate], mode: DecodeMode, params: SamplingParams, request: int
) -> None:
    target = rows_of(*MARKOV_TARGET)
    generation = Generation(
        mode=mode,
        verifier=sample_and_match,
        target=target,
        drafter=rows_of(*MARKOV_DRAFTER),
        key=RngKey(seed=1, request=request),
        params=params,
    )
    for fate in fates:
        before = len(generation.token_ids)
        generation.round(fate)
        commit, state = generation.commits[-1], generation.state
        assert len(generation.token_ids) > before
        assert commit.num_accepted <= commit.num_drafted
        assert commit.rejected == (commit.num_accepted < commit.num_drafted)
        assert state.num_committed == len(generation.token_ids)
        assert state.last_token == generation.token_ids[-1]
        assert policy_of(mode).overlaps or not state.in_flight.token_ids
    alone = [0]
    while len(alone) < len(generation.token_ids):
        alone.append(sample(target(alone[-1]), params, generation.key, len(alone) - 1, alone))
    assert generation.token_ids == alone


@settings(max_examples=30, deadline=None, derandomize=True)
@given(fates=st.lists(FATES, min_size=1, max_size=8), request=st.integers(0, 2**64 - 1))
def test_rejection_verifying_survives_every_schedule_and_repeats_itself(
    fates: list[Fate], request: int
) -> None:
    outputs = []
    for _ in range(2):
        generation = Generation(
            mode=DecodeMode.PEARL,
            verifier=recursive_rejection,
            target=rows_of(*MARKOV_TARGET),
            drafter=rows_of(*MARKOV_DRAFTER),
            key=RngKey(seed=1, request=request),
        )
        for fate in fates:
            generation.round(fate)
        outputs.append(generation.token_ids)
    assert outputs[0] == outputs[1]


def test_lossy_schedules_keep_the_distribution_with_rejection_too() -> None:
    generation = Generation(
        mode=DecodeMode.PEARL,
        verifier=recursive_rejection,
        target=rows_of(*MARKOV_TARGET),
        drafter=rows_of(*MARKOV_DRAFTER),
        key=RngKey(seed=4, request=1),
    )
    number = 0
    while len(generation.token_ids) < 8000:
        number += 1
        dice = [uniform(RngKey(seed=0, request=0), number, Purpose.DRAFT, index=i) for i in (0, 1)]
        generation.round(
            Fate(length=int(dice[0] * 5), missed=dice[1] < 0.3, as_point=dice[1] > 0.8)
        )
    assert follows(generation.token_ids[1:], MARKOV_TARGET) > 1e-4


def test_node_kinds_reach_the_verifier() -> None:
    drafts = DraftTree.chain((1, 2)), DraftTree.chain((1,), (SparseProbs(ids=(1,), probs=(1.0,)),))
    assert drafts[0].followed_by(drafts[1]).kinds == (NodeKind.POINT, NodeKind.POINT, NodeKind.IID)
