"""Draft trees through the state machine and the cache's moves: exact for every tree."""

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from parallel.batch import SequenceRows
from parallel.decoding.rng import Purpose, uniform
from parallel.decoding.round_state import (
    BeginRound,
    Commit,
    DraftArrived,
    RequestDraft,
    Score,
    State,
    Verified,
)
from parallel.decoding.sampling import sample
from parallel.decoding.score_row import ScoreRow
from parallel.decoding.types import DecodeMode, DraftTree, NodeKind, RngKey, SamplingParams, Verdict
from parallel.decoding.verify import Verifier, recursive_rejection, sample_and_match
from parallel.rounds.machine import start, step
from runtime.rank.toy_shard import PrefixShard, prefix_logits

VOCAB = 4
GREEDY, SAMPLED = SamplingParams(), SamplingParams(temperature=0.7)


@dataclass
class Generation:
    """One sequence of the toy, which keeps its own cache: a wrong move changes its scores."""

    params: SamplingParams
    verifier: Verifier
    key: RngKey
    token_ids: list[int] = field(default_factory=lambda: [1, 2])
    commits: list[Commit] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.shard = PrefixShard(VOCAB, page_size=100)
        self.shard.hold(0, range(100), 0)
        prompt = SequenceRows(slot=0, start=0, token_ids=(1,), num_logits=0)
        self.shard.forward([prompt], 1)
        self.state: State = start(
            request=0, mode=DecodeMode.SPECULATIVE, num_committed=2, last_token=2
        )

    def round(self, draft: DraftTree) -> None:
        self.state, commands = step(self.state, BeginRound(draft_length=max(1, len(draft))))
        wanted = commands[0]
        assert isinstance(wanted, RequestDraft)
        arrived = DraftArrived(epoch=wanted.epoch, base=wanted.base, draft=draft)
        self.state, commands = step(self.state, arrived)
        score = commands[0]
        assert isinstance(score, Score)
        row = SequenceRows(
            slot=0,
            start=score.start,
            token_ids=score.token_ids,
            num_logits=score.num_logits,
            parents=score.parents,
            moves=score.moves,
        )
        rows = [ScoreRow(logits, None) for logits in self.shard.forward([row], 1).logits]
        position = len(self.token_ids) - 2
        verdict = self.verifier(draft, rows, self.params, self.key, position, self.token_ids)
        self.state, (commit,) = step(self.state, Verified(verdict=verdict))
        assert isinstance(commit, Commit)
        self.commits.append(commit)
        self.token_ids += commit.token_ids


def point_tree(token_ids: list[int], parents: list[int]) -> DraftTree:
    """Make a tree of points in which no two siblings hold the same token."""
    kept: dict[int, int] = {}
    tokens: list[int] = []
    above: list[int] = []
    taken: set[tuple[int, int]] = set()
    for node, (token, parent) in enumerate(zip(token_ids, parents, strict=True)):
        if parent >= 0 and parent not in kept:
            continue
        place = kept[parent] if parent >= 0 else -1
        if (place, token) in taken:
            continue
        taken.add((place, token))
        kept[node] = len(tokens)
        tokens.append(token)
        above.append(place)
    num = len(tokens)
    return DraftTree(
        token_ids=tuple(tokens),
        parents=tuple(above),
        kinds=(NodeKind.POINT,) * num,
        draft_probs=(None,) * num,
    )


@st.composite
def trees(draw: st.DrawFn) -> DraftTree:
    size = draw(st.integers(0, 9))
    tokens = [draw(st.integers(0, VOCAB - 1)) for _ in range(size)]
    parents = [draw(st.integers(-1, node - 1)) for node in range(size)]
    return point_tree(tokens, parents)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    drafts=st.lists(trees(), min_size=1, max_size=10),
    params=st.sampled_from(
        [
            GREEDY,
            SAMPLED,
            SamplingParams(temperature=1.0, repetition_penalty=1.4),
            SamplingParams(temperature=1.0, presence_penalty=1.5, min_tokens=5, end_ids=(0,)),
        ]
    ),
    request=st.integers(0, 2**64 - 1),
)
def test_no_tree_changes_a_token(
    drafts: list[DraftTree], params: SamplingParams, request: int
) -> None:
    key = RngKey(seed=2, request=request)
    generation = Generation(params, sample_and_match, key)
    for draft in drafts:
        generation.round(draft)
        commit = generation.commits[-1]
        assert commit.num_drafted == len(draft)
        assert len(commit.token_ids) == commit.num_accepted + 1
    alone = [1, 2]
    while len(alone) < len(generation.token_ids):
        row = ScoreRow(prefix_logits(alone, VOCAB), None)
        alone.append(sample(row, params, key, len(alone) - 2, alone))
    assert generation.token_ids == alone


def full_tree(key: RngKey, number: int) -> DraftTree:
    """Return a made-up tree of three levels that covers much of the small vocabulary."""
    dice = [uniform(key, number, Purpose.DRAFT, index=i) for i in range(12)]
    tokens = [int(die * VOCAB) for die in dice]
    return point_tree(tokens, [-1, -1, -1, 0, 0, 1, 1, 2, 3, 3, 4, 5])


@pytest.mark.parametrize("verifier", [sample_and_match, recursive_rejection])
def test_sampled_pairs_follow_the_targets_distribution(verifier: Verifier) -> None:
    """First two tokens over many seeds, against the exact distribution of the toy."""
    num = 6000
    counts = np.zeros((VOCAB, VOCAB))
    accepted = 0
    for request in range(num):
        generation = Generation(SAMPLED, verifier, RngKey(seed=request, request=5))
        number = 0
        while len(generation.token_ids) < 4:
            number += 1
            generation.round(full_tree(RngKey(seed=77, request=request), number))
        counts[tuple(generation.token_ids[2:4])] += 1
        accepted += sum(commit.num_accepted for commit in generation.commits)
    first = torch.softmax(prefix_logits([1, 2], VOCAB).double() / 0.7, 0)
    second = [
        torch.softmax(prefix_logits([1, 2, t], VOCAB).double() / 0.7, 0) for t in range(VOCAB)
    ]
    expected = num * torch.stack([first[t] * second[t] for t in range(VOCAB)]).numpy()
    assert accepted > num / 2
    common = expected > 5
    statistic = ((counts - expected)[common] ** 2 / expected[common]).sum()
    rest = (counts[~common].sum() - expected[~common].sum()) ** 2 / max(
        expected[~common].sum(), 1e-9
    )
    assert chi2.sf(statistic + rest, common.sum()) > 1e-4


def test_a_kept_path_moves_and_a_chain_stays() -> None:
    state = start(request=0, mode=DecodeMode.SPECULATIVE, num_committed=5, last_token=9)
    draft = point_tree([1, 2, 3, 1], [-1, -1, 1, 2])
    state, _ = step(state, BeginRound(draft_length=4))
    state, commands = step(state, DraftArrived(epoch=0, base=5, draft=draft))
    assert commands[0] == Score(
        start=4, token_ids=(9, 1, 2, 3, 1), num_logits=5, parents=(-1, -1, 1, 2)
    )
    verdict = Verdict(num_accepted=2, next_token=0, accepted_nodes=(1, 2))
    with pytest.raises(ValueError, match="does not name the nodes"):
        step(state, Verified(verdict=Verdict(num_accepted=2, next_token=0)))
    state, (commit,) = step(state, Verified(verdict=verdict))
    assert commit == Commit(token_ids=(2, 3, 0), num_drafted=4, num_accepted=2, rejected=True)
    assert state.moves == (6, 7)
    state, commands = step(state, BeginRound(draft_length=0))
    assert commands[0] == Score(start=7, token_ids=(0,), num_logits=1, moves=(6, 7))
    state, (commit,) = step(state, Verified(verdict=Verdict(num_accepted=0, next_token=3)))
    assert state.moves == ()
