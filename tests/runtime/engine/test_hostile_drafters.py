"""Whatever a drafter does costs drafts: never a request, a token of its output, or the leader."""

import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from parallel.decoding.sampling import distribution
from parallel.decoding.score_row import ScoreRow
from parallel.decoding.types import SamplingParams
from parallel.group import SoloGroup
from parallel.messages import (
    DraftRequest,
    EngineStatus,
    Hello,
    Message,
    Ping,
    Pong,
    Proposal,
    ProposalItem,
    Submit,
)
from runtime.drafters.drafting import Drafter, DraftPart
from runtime.drafters.lookup_drafting import LookupDrafter
from runtime.drafters.lookups.lookup_settings import NO_LOOKUPS, LookupSettings
from runtime.drafters.model_drafting import ModelDrafter
from runtime.links.link import Link
from runtime.links.memory_link import memory_link_pair
from runtime.rank.page_ledger import SlotLedger
from runtime.rank.shard import ShardRunner
from runtime.rank.toy_shard import PrefixShard, prefix_logits
from tests.support.hostile import ITEMS, PARTS, FuzzingDrafter, RaisingDrafter
from tests.support.rig import PAGE, VOCAB, Outcome, Rig, expected_tokens, make_submit

SAMPLED = SamplingParams(temperature=0.9, seed=5)


def model(
    *,
    vocab_size: int = VOCAB,
    max_positions: int = 0,
    lookups: LookupSettings = NO_LOOKUPS,
    grows_trees: bool = False,
) -> ModelDrafter:
    shard = PrefixShard(vocab_size, page_size=PAGE, noise=0.3, max_positions=max_positions)
    ledger = SlotLedger(num_pages=400, page_size=PAGE)
    runner = ShardRunner(shard, SoloGroup())
    return ModelDrafter(runner, ledger, lookups=lookups, grows_trees=grows_trees)


def sound(kind: str) -> Drafter:
    if kind == "lookup":
        return LookupDrafter(LookupSettings())
    return model(lookups=LookupSettings(), grows_trees=True) if kind == "trees" else model()


def submits(num: int = 4, max_tokens: int = 40) -> list[Submit]:
    """Make requests of all modes; the last one lets the controller choose the length."""
    return [
        make_submit(
            number,
            prompt=[5, 6, 7, 8, 5, 6, number],
            mode=("speculative", "pearl", "auto", "speculative")[number % 4],
            sampling=SAMPLED if number % 2 else None,
            max_tokens=max_tokens,
            draft_length=None if number % 4 == 3 else 4,
        )
        for number in range(num)
    ]


def check(rig: Rig, asked: list[Submit]) -> dict[int, Outcome]:
    outcomes = rig.run(asked)
    for submit in asked:
        assert outcomes[submit.request].token_ids == expected_tokens(submit)
    return outcomes


def status_of(rig: Rig) -> EngineStatus:
    link = rig.driver()
    link.send(Ping(number=1))
    pong = link.recv(10.0)
    link.close()
    assert isinstance(pong, Pong)
    return pong.status


def num_drafted(outcomes: dict[int, Outcome]) -> int:
    return sum(o.finished.stats.drafted for o in outcomes.values() if o.finished is not None)


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig(wait_budget_s=0.1)
    yield made
    made.close()


@pytest.mark.parametrize("kind", ["model", "trees", "lookup"])
@pytest.mark.parametrize("seed", range(3))
def test_an_inline_drafter_that_raises_at_random_calls_changes_no_token(
    rig: Rig, kind: str, seed: int
) -> None:
    drafter = RaisingDrafter(sound(kind), seed, rate=0.04)
    rig.attach(drafter, inline=True)
    outcomes = check(rig, submits(8))
    assert drafter.num_faults > 0
    assert num_drafted(outcomes) > 0
    assert not rig.errors


@pytest.mark.parametrize("seed", range(2))
def test_a_drafter_of_its_own_that_raises_is_lost_and_the_next_one_drafts(
    rig: Rig, seed: int
) -> None:
    asked = submits(8)
    for attempt in range(3):  # each ends at its first fault, as a rank does
        rig.attach(RaisingDrafter(model(), 10 * seed + attempt, rate=0.1))
        check(rig, asked)
    assert rig.ports.num_losses > 0
    rig.attach(model())
    assert num_drafted(check(rig, asked)) > 0


def test_a_drafter_that_is_swapped_in_and_raises_changes_no_token(rig: Rig) -> None:
    rig.attach(RaisingDrafter(model(), 1, rate=0.0), inline=True)  # it raises when it is closed
    check(rig, submits())
    rig.attach(RaisingDrafter(model(), 2, rate=1.0), inline=True)
    check(rig, submits())
    rig.attach(model(), inline=True)
    assert num_drafted(check(rig, submits())) > 0
    assert not rig.errors


@pytest.mark.parametrize("inline", [True, False], ids=["inline", "own link"])
@pytest.mark.parametrize("kind", ["model", "trees", "lookup"])
def test_a_sound_drafter_has_no_faults(kind: str, inline: bool) -> None:
    """With prompts that are read in parts, and requests that yield their cache to others."""
    rig = Rig(num_pages=50, prefill_chunk=5)
    rig.attach(sound(kind), inline=inline)
    asked = [*submits(3, max_tokens=110), make_submit(8, prompt=[3] * 90, mode="pearl")]
    asked.append(make_submit(9, prompt=[3] * 70, mode="speculative", draft_length=None))
    assert num_drafted(check(rig, asked)) > 0
    status = status_of(rig)
    assert status.preemptions > 0
    assert status.drafter_faults == 0
    rig.close()


def test_a_drafter_that_fails_all_the_time_is_dropped_and_named(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    drafter = RaisingDrafter(model(), 0, rate=1.0)
    rig.attach(drafter, inline=True)
    check(rig, submits())
    assert drafter.num_faults == 5
    status = status_of(rig)
    assert status.drafter == ""
    assert (status.drafter_losses, status.drafter_faults) == (1, 5)
    assert "drafter toy is dropped after 5 faults" in caplog.text


@pytest.mark.parametrize("inline", [True, False], ids=["inline", "own link"])
@pytest.mark.parametrize("kind", ["model", "trees", "lookup"])
@pytest.mark.parametrize("seed", range(2))
def test_a_drafter_that_returns_nonsense_changes_no_token(
    rig: Rig, kind: str, seed: int, inline: bool
) -> None:
    drafter = FuzzingDrafter(sound(kind), seed, rate=0.15)
    rig.attach(drafter, inline=inline)
    check(rig, submits(8))
    assert drafter.num_faults > 0
    assert rig.ports.num_faults > 0
    assert not rig.errors


@pytest.mark.parametrize("verifier", ["match", "rejection"])
@pytest.mark.parametrize("name", [*ITEMS, *PARTS])
def test_each_kind_of_nonsense_costs_drafts_alone(rig: Rig, name: str, verifier: str) -> None:
    rig.attach(FuzzingDrafter(model(), 1, rate=0.5, only=name), inline=True)
    asked = [
        make_submit(
            number,
            prompt=(number, 2),
            mode=("speculative", "pearl")[number],
            sampling=SAMPLED,
            verifier=verifier,
            max_tokens=12,
        )
        for number in range(2)
    ]
    outcomes = rig.run(asked)
    for submit in asked:
        outcome = outcomes[submit.request]
        assert outcome.failed is None
        assert len(outcome.token_ids) == submit.max_tokens
        if verifier == "match":
            assert outcome.token_ids == expected_tokens(submit)
    assert not rig.errors


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_successors", -1),
        ("num_successors", 10**6),
        ("step_s", (0.0, 0.1)),
        ("step_s", (float("nan"),)),
        ("width", -2),
        ("max_positions", -1),
    ],
)
def test_a_drafter_that_says_nonsense_of_itself_is_rejected(
    rig: Rig, field: str, value: object, caplog: pytest.LogCaptureFixture
) -> None:
    ours, theirs = memory_link_pair("leader", "drafter")
    rig.engine.join(Hello(role="drafter", name="odd", **{field: value}), theirs)  # type: ignore[arg-type]
    assert num_drafted(check(rig, submits(1))) == 0
    assert f"drafter odd is rejected: {field}" in caplog.text
    ours.close()


class FloodingLink:
    """The drafter's end of a link; sends each answer again and again."""

    def __init__(self, inner: Link) -> None:
        self.inner, self.peer = inner, inner.peer

    def send(self, message: Message) -> None:
        repeats = 200 if isinstance(message, Proposal) and not message.partial else 0
        for _ in range(1 + repeats):
            self.inner.send(message)

    def recv(self, timeout_s: float) -> Message | None:
        return self.inner.recv(timeout_s)

    def close(self) -> None:
        self.inner.close()


def test_a_drafter_that_sends_what_was_not_asked_for_is_dropped_while_idle(rig: Rig) -> None:
    ours, theirs = memory_link_pair("leader", "drafter")
    rig.attach_link(theirs, FloodingLink(ours))
    check(rig, submits(1, max_tokens=4))
    deadline_s = time.monotonic() + 30
    while status_of(rig).drafters:
        assert time.monotonic() < deadline_s


def test_a_drafter_that_never_answers_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig(wait_budget_s=0.01)
    rig.attach_silent()
    deadline_s = time.monotonic() + 60
    while status_of(rig).drafters:
        assert time.monotonic() < deadline_s
        check(rig, submits(2, max_tokens=10))
    rig.close()
    assert "drafter silent is dropped after 0 faults" in caplog.text
    assert "it does not answer" in caplog.text


@pytest.mark.parametrize("mode", ["speculative", "pearl"])
@pytest.mark.parametrize("inline", [True, False], ids=["inline", "own link"])
def test_a_drafter_drafts_up_to_the_end_of_its_context(rig: Rig, mode: str, inline: bool) -> None:
    rig.attach(model(max_positions=40), inline=inline, max_positions=40)
    asked = [
        make_submit(0, prompt=[1] * 10, mode=mode, max_tokens=60),
        make_submit(1, prompt=[2] * 70, mode=mode, max_tokens=20),  # a prompt beyond it
    ]
    outcomes = check(rig, asked)
    assert outcomes[0].finished is not None
    assert outcomes[1].finished is not None
    assert outcomes[0].finished.stats.accepted > 0
    assert outcomes[1].finished.stats.drafted == 0
    assert rig.ports.num_faults == 0


@pytest.mark.parametrize("mode", ["speculative", "pearl"])
@pytest.mark.parametrize("inline", [True, False], ids=["inline", "own link"])
def test_a_drafter_with_fewer_rows_drafts_until_a_token_it_cannot_read(
    rig: Rig, mode: str, inline: bool
) -> None:
    few = VOCAB - 2
    rig.attach(model(vocab_size=few), inline=inline, vocab_size=few)
    chooser = random.Random(3)
    asked = [
        make_submit(
            number,
            prompt=[chooser.randrange(few) for _ in range(4)],
            mode=mode,
            sampling=SamplingParams(temperature=2.0, seed=number),
            max_tokens=60,
        )
        for number in range(4)
    ]
    asked.append(make_submit(9, prompt=[1, few, 2], mode=mode))
    outcomes = check(rig, asked)
    assert any(few <= max(o.token_ids) for o in outcomes.values())
    assert num_drafted(outcomes) > 0
    assert outcomes[9].finished is not None
    assert outcomes[9].finished.stats.drafted == 0
    assert rig.ports.num_faults == 0


def exact_pairs(prompt: tuple[int, ...], sampling: SamplingParams) -> dict[tuple[int, ...], float]:
    """Return the target's probability of each pair of tokens after a prompt."""
    pairs: dict[tuple[int, ...], float] = {}
    first = distribution(ScoreRow(prefix_logits(prompt, VOCAB), None), sampling)
    for one, p_one in zip(first.ids.tolist(), first.probs.tolist(), strict=True):
        second = distribution(ScoreRow(prefix_logits((*prompt, one), VOCAB), None), sampling)
        for two, p_two in zip(second.ids.tolist(), second.probs.tolist(), strict=True):
            pairs[one, two] = p_one * p_two
    return pairs


def check_distribution(rig: Rig, num: int = 800) -> None:
    """Compare pairs of tokens under rejection with the target's own, by a chi-square test."""
    prompt = (3, 1, 22)  # its likeliest token is one that the smallest drafter lacks
    asked = [
        replace(
            make_submit(number, prompt=prompt, mode="speculative", verifier="rejection"),
            sampling=SamplingParams(temperature=1.5, top_k=4, seed=number),
            max_tokens=2,
        )
        for number in range(num)
    ]
    outcomes = rig.run(asked)
    found = Counter(tuple(outcome.token_ids) for outcome in outcomes.values())
    exact = exact_pairs(prompt, asked[0].sampling)
    assert set(found) <= set(exact)
    expected = [prob * num for prob in exact.values()]
    assert min(expected) > 5
    assert chisquare([found[pair] for pair in exact], expected).pvalue > 1e-3


@pytest.mark.parametrize("vocab_size", [VOCAB - 8, VOCAB + 16], ids=["fewer rows", "more rows"])
def test_rejection_is_exact_with_a_drafter_of_another_number_of_rows(
    rig: Rig, vocab_size: int
) -> None:
    drafter = ModelDrafter(
        ShardRunner(OtherModel(vocab_size, page_size=PAGE), SoloGroup()),
        SlotLedger(num_pages=400, page_size=PAGE),
    )
    rig.attach(drafter, inline=True, vocab_size=vocab_size)
    check_distribution(rig)
    status = status_of(rig)
    assert status.accepted > 100
    assert status.rejected > 100
    assert status.drafter_faults == 0


class OtherModel(PrefixShard):
    """A model that likes the highest tokens that it knows, and of the others what the toy does."""

    def _logits(self, prefix: Sequence[int], noise: float) -> Tensor:  # noqa: ARG002
        logits = 0.05 * torch.arange(self.vocab_size)
        shared = min(VOCAB - 8, self.vocab_size)
        logits[:shared] = 0.7 * prefix_logits(prefix, VOCAB)[:shared]
        return logits


def test_rejection_is_exact_with_a_drafter_that_returns_nonsense(rig: Rig) -> None:
    drafter = FuzzingDrafter(model(), 2, rate=0.3)
    rig.attach(drafter, inline=True)
    check_distribution(rig)
    assert status_of(rig).accepted > 0
    assert drafter.num_faults > 2


class BestFirst(FuzzingDrafter):
    """Drafts the likeliest tokens as siblings, each with the probabilities of all."""

    def answer(self, request: DraftRequest) -> Iterator[DraftPart]:
        for part in self.inner.answer(request):
            yield replace(part, items=tuple(_best_first(item) for item in part.items))


def _best_first(item: ProposalItem) -> ProposalItem:
    next_probs = item.draft_probs[0]
    order = sorted(range(len(next_probs.ids)), key=lambda at: -next_probs.probs[at])[:3]
    return replace(
        item,
        token_ids=tuple(next_probs.ids[at] for at in order),
        parents=(-1,) * len(order),
        draft_probs=(next_probs,) * len(order),
    )


def test_rejection_is_exact_with_a_tree_whose_draft_probabilities_were_not_asked_for(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    rig.attach(BestFirst(model(), 0, rate=0.0), inline=True)
    check_distribution(rig)
    assert "a tree with draft probabilities, which was not requested" in caplog.text
