"""A prompt window: the drafts are those of the same model after the prompt's end alone."""

import pytest

from parallel.decoding.types import RngKey, SamplingParams
from parallel.group import SoloGroup
from parallel.messages import DraftItem, DraftOpen, DraftRequest, ProposalItem
from runtime.drafters.drafting import DraftPart
from runtime.drafters.lookups.lookup_settings import NO_LOOKUPS, LookupSettings
from runtime.drafters.model_drafting import ModelDrafter
from runtime.rank.page_ledger import SlotLedger
from runtime.rank.shard import DecoderShard, ShardRunner
from tests.support.tiny_transformer import TinyModel, make_cache, tiny_model, tokens

WINDOW = 10
SAMPLINGS = [SamplingParams(), SamplingParams(temperature=1.0, seed=4)]


class Asker:
    """Asks a drafter that reads `window` tokens of each prompt."""

    def __init__(
        self,
        model: TinyModel,
        window: int | None,
        *,
        sampling: SamplingParams = SAMPLINGS[0],
        lookups: str = "",
        num_pages: int = 60,
    ) -> None:
        decoder = model.decoder()
        self.sampling = sampling
        self.ledger = SlotLedger(num_pages=num_pages, page_size=4)
        cache = make_cache(decoder, num_pages=num_pages)
        self.drafter = ModelDrafter(
            ShardRunner(DecoderShard(decoder, cache), SoloGroup()),
            self.ledger,
            prompt_window=window,
            lookups=LookupSettings.parse(lookups) if lookups else NO_LOOKUPS,
        )

    def open(self, request: int, prompt: tuple[int, ...], num_draft: int = 0) -> list[DraftPart]:
        """Open a request with its prompt, as the leader does."""
        opened = DraftOpen(
            request=request,
            key=RngKey(seed=3, request=0),
            sampling=self.sampling,
            num_prompt=len(prompt),
            capacity=len(prompt) + 40,
            send_probs=False,
        )
        item = DraftItem(request=request, epoch=0, keep=0, tail=prompt, num_draft=num_draft)
        asked = DraftRequest(round=0, opened=(opened,), items=(item,))
        return list(self.drafter.answer(asked))

    def ask(
        self, request: int, keep: int, tail: tuple[int, ...], kind: str = "chain"
    ) -> list[ProposalItem]:
        """Return what is drafted after the first `keep` tokens and a tail."""
        item = DraftItem(
            request=request,
            epoch=0,
            keep=keep,
            tail=tail,
            num_draft=4,
            tree=kind == "tree",
            min_gain=0.01 if kind == "tree" else 0.0,
            stream=kind == "outcomes",
            num_outcomes=6 if kind == "outcomes" else 0,
            num_in_flight=1 if kind == "outcomes" else 0,
        )
        parts = self.drafter.answer(DraftRequest(round=1, items=(item,)))
        return [found for part in parts for found in part.items]


@pytest.mark.parametrize("kind", ["chain", "tree", "outcomes"])
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_drafts_are_those_after_the_end_of_the_prompt(kind: str, sampling: SamplingParams) -> None:
    model = tiny_model()
    windowed = Asker(model, WINDOW, sampling=sampling)
    short = Asker(model, None, sampling=sampling)
    prompt = tokens(37)
    unread = len(prompt) - WINDOW
    windowed.open(1, prompt)
    short.open(1, prompt[unread:])
    for keep, tail in [(37, (5, 9)), (38, (7,)), (39, (8, 4, 2))]:
        ours = windowed.ask(1, keep, tail, kind)
        theirs = short.ask(1, keep - unread, tail, kind)
        assert [item.token_ids for item in ours] == [item.token_ids for item in theirs]
        assert [item.outcomes for item in ours] == [item.outcomes for item in theirs]
        assert [item.base - unread for item in ours] == [item.base for item in theirs]
        assert any(item.token_ids for item in ours)


def test_a_prompt_within_the_window_is_read_whole() -> None:
    model, prompt = tiny_model(), tokens(WINDOW)
    windowed, whole = Asker(model, WINDOW), Asker(model, None)
    windowed.open(1, prompt)
    whole.open(1, prompt)
    assert windowed.ask(1, WINDOW, (3,)) == whole.ask(1, WINDOW, (3,))


def test_unread_tokens_take_no_cache() -> None:
    windowed = Asker(tiny_model(), WINDOW, num_pages=-(-(WINDOW + 40) // 4))
    windowed.open(1, tokens(150))
    assert windowed.ask(1, 150, (3,))[0].token_ids
    whole = Asker(tiny_model(), None, num_pages=-(-(WINDOW + 40) // 4))
    whole.open(1, tokens(150))
    assert not whole.ask(1, 150, (3,))[0].token_ids


def test_requests_that_end_alike_share_the_pages_of_their_windows() -> None:
    model = tiny_model()
    windowed, alone = Asker(model, WINDOW), Asker(model, WINDOW)
    first, second = tokens(30), (*tokens(20, seed=8), *tokens(30)[-WINDOW:])
    windowed.open(1, first)
    windowed.ask(1, 30, (5,))
    before = windowed.ledger.num_available_pages
    windowed.open(2, second)
    taken = before - windowed.ledger.num_available_pages
    assert taken == -(-(WINDOW + 40) // 4) - (WINDOW - 1) // 4
    alone.open(2, second)
    assert windowed.ask(2, 30, (5,)) == alone.ask(2, 30, (5,))


def test_look_ups_read_the_whole_prompt() -> None:
    windowed = Asker(tiny_model(), 4, lookups="ngram")
    phrase = (11, 12, 13, 14, 15, 16)
    prompt = (*phrase, *tokens(20, seed=2), *phrase[:4])
    windowed.open(1, prompt)
    (item,) = windowed.ask(1, len(prompt), ())
    assert item.token_ids[:2] == phrase[4:]
