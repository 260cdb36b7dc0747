"""A model's drafts for many outcomes: each is what the model alone drafts after that outcome."""

from dataclasses import replace

import pytest
import torch

from parallel.batch import SequenceRows
from parallel.decoding.sampling import ranked, sample
from parallel.decoding.score_row import ScoreRow
from parallel.decoding.types import RngKey, SamplingParams
from parallel.decoding.verdict_outcomes import VerdictOutcome
from parallel.group import SoloGroup
from parallel.messages import DraftItem, DraftOpen, DraftRequest, ProposalItem
from runtime.drafters.drafting import DraftPart
from runtime.drafters.model_drafting import ModelDrafter
from runtime.rank.page_ledger import SlotLedger
from runtime.rank.shard import DecoderShard, ShardRunner
from runtime.rank.toy_shard import PrefixShard, prefix_logits
from tests.support.tiny_transformer import TinyModel, make_cache, tiny_model, tokens

KEY = RngKey(seed=0, request=1)
NUM_PROMPT = 9
SAMPLINGS = [
    SamplingParams(),
    SamplingParams(temperature=1.0),
    SamplingParams(temperature=0.9, repetition_penalty=1.3),
]


class Asker:
    """Asks a drafter for outcomes of a real model, and knows what the model alone says."""

    def __init__(self, model: TinyModel, sampling: SamplingParams, *, num_pages: int = 60) -> None:
        self.model, self.sampling = model, sampling
        decoder = model.decoder()
        self.decoder = decoder
        runner = ShardRunner(DecoderShard(decoder, make_cache(decoder, num_pages=200)), SoloGroup())
        self.drafter = ModelDrafter(runner, SlotLedger(num_pages=num_pages, page_size=4))
        self.open(40)

    def open(self, capacity: int) -> None:
        """Open the request, or open it again."""
        opened = DraftOpen(
            request=1,
            key=KEY,
            sampling=self.sampling,
            num_prompt=NUM_PROMPT,
            capacity=capacity,
            send_probs=False,
        )
        list(self.drafter.answer(DraftRequest(round=0, opened=(opened,))))
        self.known: tuple[int, ...] = ()

    def ask(
        self,
        committed: tuple[int, ...],
        in_flight: tuple[int, ...],
        *,
        num: int = 10,
        part: int = 0,
        num_parts: int = 1,
    ) -> list[DraftPart]:
        """Return the parts of the answer, for drafts of four."""
        wanted = committed + in_flight
        keep = 0
        while keep < min(len(self.known), len(wanted)) and self.known[keep] == wanted[keep]:
            keep += 1
        self.known = wanted
        item = DraftItem(
            request=1,
            epoch=0,
            keep=keep,
            tail=wanted[keep:],
            num_draft=4,
            stream=True,
            num_in_flight=len(in_flight),
            num_outcomes=num,
            outcome_part=part,
            num_outcome_parts=num_parts,
        )
        return list(self.drafter.answer(DraftRequest(round=1, items=(item,))))

    def row(self, text: tuple[int, ...]) -> ScoreRow:
        """Return the model's scores after a text, read from the start."""
        cache = make_cache(self.decoder, num_pages=60)
        cache.open(1, len(text))
        row = SequenceRows(slot=1, start=0, token_ids=text, num_logits=1)
        with torch.inference_mode():
            return ScoreRow(self.decoder.forward([row], cache)[0], None)

    def alone(self, text: tuple[int, ...], num: int) -> tuple[int, ...]:
        """Return what the model drafts after a text."""
        for _ in range(num):
            position = len(text) - NUM_PROMPT
            text += (sample(self.row(text), self.sampling, KEY, position, text),)
        return text[len(text) - num :]


def gathered(parts: list[DraftPart]) -> dict[VerdictOutcome, tuple[int, ...]]:
    """Return each outcome's draft, its parts joined."""
    found: dict[VerdictOutcome, tuple[int, ...]] = {}
    for part in parts:
        for outcome in part.items[0].outcomes:
            assert outcome.first == len(found.get(outcome.outcome, ()))
            found[outcome.outcome] = found.get(outcome.outcome, ()) + outcome.token_ids
    return found


def own(parts: list[DraftPart]) -> tuple[int, ...]:
    items: list[ProposalItem] = [part.items[0] for part in parts]
    return tuple(token for item in items for token in item.token_ids)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_every_draft_is_what_the_model_alone_drafts_after_its_outcome(
    sampling: SamplingParams,
) -> None:
    asker = Asker(tiny_model(), sampling)
    committed = tokens(NUM_PROMPT)
    for in_flight in ((), tokens(3, seed=5)):
        parts = asker.ask(committed, in_flight)
        assert [part.partial for part in parts] == [True, True, True, False]
        assert [part.num_steps for part in parts] == [1, 2, 3, 4]
        assert own(parts) == asker.alone(committed + in_flight, 4)
        found = gathered(parts)
        assert len(found) == (9 if in_flight else 8)
        for outcome, draft in found.items():
            kept = committed + in_flight[: outcome.num_accepted]
            assert draft == asker.alone((*kept, outcome.next_token), 3)


def test_guesses_are_the_next_ones_of_the_order_that_the_target_draws_by() -> None:
    asker = Asker(tiny_model(), SAMPLINGS[1])
    committed, in_flight = tokens(NUM_PROMPT), tokens(2, seed=5)
    text = committed + in_flight
    for place in range(3):
        stop = NUM_PROMPT + place
        order = ranked(asker.row(text[:stop]), asker.sampling, KEY, place, num=9)
        draft = text[stop] if place < 2 else order[0].token
        best = [each.token for each in order if each.token != draft]
        fresh = Asker(asker.model, asker.sampling)
        found = list(gathered(fresh.ask(committed, in_flight, num=10)))
        guesses = [each.next_token for each in found if each.num_accepted == place]
        assert guesses == best[: len(guesses)]


def test_what_a_verdict_keeps_is_drafted_after_as_if_nothing_else_had_been_read() -> None:
    asker = Asker(tiny_model(), SamplingParams(temperature=1.0))
    committed, in_flight = tokens(NUM_PROMPT), tokens(3, seed=5)
    for number in range(6):
        parts = asker.ask(committed, in_flight)
        assert own(parts) == asker.alone(committed + in_flight, 4)
        found = gathered(parts)
        outcome = sorted(found, key=lambda each: (each.num_accepted, each.next_token))[number]
        committed += (*in_flight[: outcome.num_accepted], outcome.next_token)
        in_flight = found[outcome][: number % 4]


def test_an_answer_that_is_left_half_way_spoils_nothing() -> None:
    asker = Asker(tiny_model(), SamplingParams())
    committed, in_flight = tokens(NUM_PROMPT), tokens(3, seed=5)
    item = DraftItem(
        request=1, epoch=0, keep=0, tail=committed, num_draft=4, stream=True, num_outcomes=6
    )
    answer = asker.drafter.answer(DraftRequest(round=1, items=(item,)))
    assert next(answer).can_end
    assert next(answer).can_end
    answer.close()  # type: ignore[attr-defined]  # a generator
    asker.known = committed
    assert own(asker.ask(committed, in_flight)) == asker.alone(committed + in_flight, 4)


@pytest.mark.parametrize("num_known", [513, 514, 516, 520])
def test_a_prompt_longer_than_one_forward_is_read_before_the_drafts(num_known: int) -> None:
    runner = ShardRunner(PrefixShard(48, page_size=4), SoloGroup())
    drafter = ModelDrafter(runner, SlotLedger(num_pages=200, page_size=4))
    prompt = tuple(number % 40 for number in range(num_known))
    opened = DraftOpen(
        request=1,
        key=KEY,
        sampling=SamplingParams(),
        num_prompt=num_known - 3,
        capacity=num_known + 30,
        send_probs=False,
    )
    item = DraftItem(
        request=1, epoch=0, keep=0, tail=prompt, num_draft=2, num_in_flight=3, num_outcomes=2
    )
    parts = list(drafter.answer(DraftRequest(round=1, opened=(opened,), items=(item,))))
    best = int(prefix_logits(prompt, 48).argmax())
    assert own(parts) == (best, int(prefix_logits((*prompt, best), 48).argmax()))


def test_without_room_in_the_cache_fewer_outcomes_are_drafted_for() -> None:
    asker = Asker(tiny_model(), SamplingParams(), num_pages=12)
    committed, in_flight = tokens(NUM_PROMPT), tokens(3, seed=5)
    parts = asker.ask(committed, in_flight, num=20)
    assert 0 < len(gathered(parts)) < 10
    assert own(parts) == asker.alone(committed + in_flight, 4)


def test_the_outcomes_that_come_true_are_prepared_for_more_often() -> None:
    asker = Asker(tiny_model(), SamplingParams())
    committed, in_flight = tokens(NUM_PROMPT), ()
    sequence = asker.drafter._model.sequence(1)  # its odds are not part of any message
    for _ in range(4):
        asker.ask(committed, in_flight)
        committed += (asker.alone(committed, 1)[0],)  # the drafter is always right
    asker.ask(committed, in_flight)
    assert sequence.odds is not None
    assert sequence.foreseen is not None
    assert sequence.foreseen.drafts == asker.alone(committed, 1)
    fresh = replace(sequence, odds=None)
    assert fresh.odds is None
    assert sequence.odds.acceptance(0.1) > 0.45


@pytest.mark.parametrize("sampling", SAMPLINGS[:2])
def test_drafters_that_share_outcomes_take_each_of_the_likeliest_once(
    sampling: SamplingParams,
) -> None:
    committed, in_flight = tokens(NUM_PROMPT), tokens(3, seed=5)
    model = tiny_model()
    alone = Asker(model, sampling)
    whole = alone.ask(committed, in_flight, num=12)
    shares = [
        Asker(model, sampling).ask(committed, in_flight, num=4, part=part, num_parts=3)
        for part in range(3)
    ]
    assert own(shares[0]) == own(whole)
    assert own(shares[1]) == own(shares[2]) == ()
    found = [gathered(parts) for parts in shares]
    assert [len(each) for each in found] == [3, 4, 4]
    together = {outcome: draft for each in found for outcome, draft in each.items()}
    assert together == gathered(whole)


def test_a_share_without_an_outcome_is_answered_at_once() -> None:
    asker = Asker(tiny_model(), SamplingParams())
    (part,) = asker.ask(tokens(NUM_PROMPT), (), num=1, part=300, num_parts=301)
    assert not part.partial
    assert part.items[0].outcomes == ()
    assert part.items[0].token_ids == ()
