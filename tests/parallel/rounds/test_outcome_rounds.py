"""Generations with an outcome cache: exact whatever is prepared, lost, repeated or late."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from scipy.stats import chi2

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
    State,
    Verified,
    Verify,
)
from parallel.decoding.sampling import distribution, sample
from parallel.decoding.score_row import ScoreRow
from parallel.decoding.types import (
    DecodeMode,
    DraftTree,
    RngKey,
    SamplingParams,
    SparseProbs,
    Verdict,
)
from parallel.decoding.verdict_outcomes import OutcomeDraft, VerdictOutcome
from parallel.decoding.verify import (
    Verifier,
    draft_token,
    draft_token_with_probs,
    recursive_rejection,
    sample_and_match,
)
from parallel.rounds.machine import start, step

TARGET = ((0.6, 0.3, 0.1), (0.2, 0.2, 0.6), (0.5, 0.25, 0.25))
DRAFTER = ((0.3, 0.5, 0.2), (0.3, 0.3, 0.4), (0.2, 0.3, 0.5))
SAMPLED = SamplingParams(temperature=1.0)


def row_after(rows: Sequence[Sequence[float]], token: int) -> ScoreRow:
    return ScoreRow(torch.tensor(rows[token]).log(), None)


@dataclass
class Cached:
    """One sequence with a toy target, and drafts for outcomes that a random schedule damages."""

    verifier: Verifier
    key: RngKey
    params: SamplingParams = SAMPLED
    faults: random.Random | None = None
    """None: everything arrives."""
    token_ids: list[int] = field(default_factory=lambda: [0])
    num_tested: int = 0
    """Rounds that tested a draft."""
    old: list[DraftArrived] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.state: State = start(
            request=0, mode=DecodeMode.OUTCOMES, num_committed=1, last_token=0
        )

    def round(self, length: int = 3) -> Commit:
        """Run one round."""
        self.num_tested += len(self.state.in_flight) > 0
        commands = list(self.take(BeginRound(draft_length=length)))
        wanted: RequestDraft | None = None
        while True:
            match command := commands.pop(0):
                case RequestDraft():
                    wanted = command
                case AwaitDraft():
                    assert wanted is not None
                    commands += self.deliver(self.parts(wanted))
                case Verify():
                    commands += self.take(Verified(verdict=self.verdict(command)))
                case Commit():
                    self.token_ids += command.token_ids
                    assert self.state.num_committed == len(self.token_ids)
                    assert self.state.num_pending == 0
                    return command

    def take(self, event: Event) -> tuple[Command, ...]:
        self.state, commands = step(self.state, event)
        return commands

    def verdict(self, verify: Verify) -> Verdict:
        read = [self.token_ids[-1], *self.state.in_flight.token_ids]
        rows = [row_after(TARGET, token) for token in read]
        position = len(self.token_ids) - 1
        return self.verifier(
            verify.draft, rows[: verify.num_rows], self.params, self.key, position, self.token_ids
        )

    def deliver(self, parts: list[DraftArrived]) -> tuple[Command, ...]:
        """Apply the first part, and then what arrives of the others before the verdict."""
        if self.faults is None:
            commands = self.take(parts[0])
            for part in parts[1:]:
                assert self.take(part) == ()
            return commands
        chance = self.faults.random
        for stale in self.old:
            if chance() < 0.3:
                before = self.state
                assert self.take(stale) == ()
                assert self.state == before
        self.old = parts
        missed = chance() < 0.2
        commands = self.take(DraftMissed() if missed else parts[0])
        for part in parts:
            if chance() < 0.8:
                for _ in range(1 + (chance() < 0.2)):
                    assert self.take(part) == ()
        return commands

    def parts(self, wanted: RequestDraft) -> list[DraftArrived]:
        """Return the answer step by step: PEARL's own block, and all outcomes of three tokens."""
        flying = list(self.state.in_flight.token_ids)
        own, probs = self.own_block([*self.token_ids, *flying], wanted.draft_length)
        drafts = {}
        for kept in range(len(flying) + 1):
            for token in range(3):
                outcome = VerdictOutcome(kept, token)
                text = [*self.token_ids, *flying[:kept], token]
                if outcome != VerdictOutcome(len(flying), own[0]) and self.is_kept(text):
                    drafts[outcome] = self.draft(text, wanted.draft_length - 1)
        return [
            DraftArrived(
                epoch=wanted.epoch,
                base=wanted.base + at,
                draft=DraftTree.chain((own[at],), probs[at : at + 1]),
                partial=at + 1 < wanted.draft_length,
                outcomes=tuple(
                    OutcomeDraft(
                        outcome=outcome, first=max(0, at - 1), token_ids=draft[at - 1 : at]
                    )
                    if at
                    else OutcomeDraft(outcome=outcome)
                    for outcome, draft in drafts.items()
                ),
            )
            for at in range(wanted.draft_length)
        ]

    def own_block(
        self, text: list[int], num: int
    ) -> tuple[tuple[int, ...], tuple[SparseProbs, ...]]:
        if self.verifier is sample_and_match or self.params.is_greedy:
            return self.draft(text, num), ()
        probs: list[SparseProbs] = []
        for _ in range(num):
            row, position = row_after(DRAFTER, text[-1]), len(text) - 1
            token, token_probs = draft_token_with_probs(row, self.params, self.key, position, text)
            text = [*text, token]
            probs.append(token_probs)
        return tuple(text[len(text) - num :]), tuple(probs)

    def draft(self, text: list[int], num: int) -> tuple[int, ...]:
        for _ in range(num):
            text = [*text, self.pick(text)]
        return tuple(text[len(text) - num :]) if num else ()

    def pick(self, text: list[int]) -> int:
        """Return the draft token after a text."""
        row = row_after(DRAFTER, text[-1])
        return draft_token(row, self.params, self.key, len(text) - 1, text)

    def is_kept(self, text: list[int]) -> bool:  # noqa: ARG002
        """Return whether a draft after this text is prepared at all."""
        return True


def p_value(*chains: list[int]) -> float:
    """Return the p-value of chains' transitions (Billingsley's chi-square for Markov chains)."""
    counts = np.zeros((3, 3))
    for tokens in chains:
        np.add.at(counts, (tokens[:-1], tokens[1:]), 1)
    expected = counts.sum(axis=1, keepdims=True) * np.array(TARGET)
    return float(chi2.sf(((counts - expected) ** 2 / expected).sum(), 6))


def generated(sequence: Cached, num: int = 2500) -> list[int]:
    while len(sequence.token_ids) < num:
        sequence.round(2)
    return sequence.token_ids


@pytest.mark.parametrize(
    "params", [SAMPLED, SamplingParams(), SamplingParams(temperature=0.8, repetition_penalty=1.5)]
)
@pytest.mark.parametrize("seed", range(4))
def test_no_schedule_of_lost_late_and_repeated_parts_changes_a_token(
    params: SamplingParams, seed: int
) -> None:
    key = RngKey(seed=seed, request=9)
    chooser = random.Random(seed)
    sequence = Cached(verifier=sample_and_match, key=key, params=params, faults=chooser)
    for _ in range(60):
        commit = sequence.round(chooser.randrange(1, 6))
        assert commit.num_accepted <= commit.num_drafted
    alone = [0]
    while len(alone) < len(sequence.token_ids):
        row = row_after(TARGET, alone[-1])
        alone.append(sample(row, params, key, len(alone) - 1, alone))
    assert sequence.token_ids == alone
    assert 15 < sequence.num_tested < 60


def test_greedy_rejection_gives_the_same_tokens() -> None:
    outputs = [
        generated(Cached(verifier=each, key=RngKey(seed=1, request=1), params=SamplingParams()), 50)
        for each in (sample_and_match, recursive_rejection)
    ]
    assert outputs[0][:50] == outputs[1][:50]


@pytest.mark.parametrize("verifier", [sample_and_match, recursive_rejection])
@pytest.mark.parametrize("lossy", [False, True])
def test_transitions_follow_the_targets_distribution(verifier: Verifier, lossy: bool) -> None:
    faults = random.Random(5) if lossy else None
    sequence = Cached(verifier=verifier, key=RngKey(seed=3, request=1), faults=faults)
    assert p_value(generated(sequence)) > 1e-4
    assert sequence.num_tested > 300


class SharedNoise(Cached):
    """Draws the draft with the number that the recovered token is drawn with."""

    def pick(self, text: list[int]) -> int:
        number = uniform(self.key, len(text) - 1, Purpose.RECOVER)
        drafter = distribution(row_after(DRAFTER, text[-1]), self.params)
        return int(np.searchsorted(np.cumsum(drafter.probs), number, side="right"))


class DropsByItsOwnNoise(Cached):
    """Prepares a draft only where the number of its first token's test will accept it."""

    def is_kept(self, text: list[int]) -> bool:
        return uniform(self.key, len(text) - 1, Purpose.ACCEPT) < 0.5


def random_fallback(
    draft: DraftTree,
    rows: Sequence[ScoreRow],
    params: SamplingParams,
    key: RngKey,
    position: int,
    history: Sequence[int] = (),
) -> Verdict:
    """Where nothing is in flight, test a random token, and accept it if it is the target's best."""
    best = int(rows[0].logits.argmax())
    if len(rows) == 1 and int(uniform(key, position, Purpose.SAMPLE) * 3) == best:
        is_own = draft.token_ids == (best,)
        return Verdict(num_accepted=int(is_own), next_token=None if is_own else best)
    return recursive_rejection(draft, rows, params, key, position, history)


@pytest.mark.parametrize("broken", [SharedNoise, DropsByItsOwnNoise])
def test_drafts_that_depend_on_the_numbers_of_their_own_test_are_caught(
    broken: type[Cached],
) -> None:
    sequence = broken(verifier=recursive_rejection, key=RngKey(seed=3, request=1))
    assert p_value(generated(sequence)) < 1e-5


class Missing(Cached):
    """Never gets a draft."""

    def deliver(self, parts: list[DraftArrived]) -> tuple[Command, ...]:  # noqa: ARG002
        return self.take(DraftMissed())


def test_a_random_fallback_accepted_on_the_best_token_is_caught() -> None:
    sequence = Missing(verifier=random_fallback, key=RngKey(seed=3, request=1))
    assert p_value(generated(sequence)) < 1e-5


def many(make: Callable[[RngKey], Cached], num_tokens: int = 100_000) -> list[list[int]]:
    """Return sequences of 2,500 tokens, each with noise of its own."""
    keys = (RngKey(seed=seed, request=2) for seed in range(num_tokens // 2500))
    return [generated(make(key), 2501) for key in keys]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("lossy", [False, True])
def test_a_hundred_thousand_tokens_follow_the_targets_distribution(lossy: bool) -> None:
    def make(key: RngKey) -> Cached:
        faults = random.Random(key.seed) if lossy else None
        return Cached(verifier=recursive_rejection, key=key, faults=faults)

    assert p_value(*many(make)) > 1e-4


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("broken", [SharedNoise, DropsByItsOwnNoise, Missing])
def test_a_hundred_thousand_tokens_of_a_broken_variant_are_caught(broken: type[Cached]) -> None:
    verifier = random_fallback if broken is Missing else recursive_rejection
    assert p_value(*many(lambda key: broken(verifier=verifier, key=key))) < 1e-20
