"""The look-up drafter: sources, their order, roll-backs, and a leader that drafts by itself."""

import os
from pathlib import Path

import pytest
import torch

from parallel.decoding.score_row import ScoreRow
from parallel.decoding.types import RngKey, SamplingParams
from parallel.drafting.retrieval import build_store
from parallel.messages import DraftItem, DraftOpen, DraftRequest, Proposal, ProposalItem
from runtime.clock import MonotonicClock
from runtime.drafters.inline_link import InlineLink
from runtime.drafters.lookup_drafting import LookupDrafter
from runtime.drafters.lookups.lookup_settings import LookupSettings
from runtime.drafters.lookups.retrieval_files import save_store
from runtime.errors import PeerLost, ProtocolError
from tests.support.log_records import records_of


def opened(request: int = 1) -> DraftOpen:
    return DraftOpen(
        request=request,
        key=RngKey(seed=0, request=0),
        sampling=SamplingParams(),
        num_prompt=1,
        capacity=100,
        send_probs=False,
    )


def item(
    tail: tuple[int, ...],
    *,
    keep: int = 0,
    num_draft: int = 3,
    tree: bool = False,
    scored: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = (),
) -> DraftItem:
    return DraftItem(
        request=1,
        epoch=0,
        keep=keep,
        tail=tail,
        num_draft=num_draft,
        tree=tree,
        scored=scored,
    )


def draft(drafter: LookupDrafter, asked: DraftItem, *, first: bool = False) -> ProposalItem:
    request = DraftRequest(round=1, opened=(opened(),) if first else (), items=(asked,))
    (part,) = drafter.answer(request)
    (found,) = part.items
    return found


def test_all_sources_make_one_tree() -> None:
    drafter = LookupDrafter(LookupSettings())
    scored = (((4,), (40,)), ((4, 40), (41,)), ((9, 3), (30,)))
    asked = item((1, 2, 3, 4, 2, 3), num_draft=8, tree=True, scored=scored)
    found = draft(drafter, asked, first=True)
    roots = {t for t, p in zip(found.token_ids, found.parents, strict=True) if p == -1}
    assert roots == {4, 30}
    assert {40, 41} <= set(found.token_ids)
    assert found.gains == tuple(sorted(found.gains, reverse=True))
    # It holds nothing of a tree: the next item has what was committed.
    again = draft(drafter, item((4, 40), keep=6, num_draft=2, tree=True))
    assert (again.base, again.token_ids[0]) == (8, 41)
    assert not again.unknown


def test_a_chain_is_drafted_where_no_tree_is_wanted() -> None:
    drafter = LookupDrafter(LookupSettings())
    found = draft(drafter, item((1, 2, 3, 4, 2)), first=True)
    assert (found.token_ids, found.parents) == ((3, 4, 2), ())
    assert draft(drafter, item((50,), keep=5)).token_ids == ()


def test_trees_learn_which_source_is_right() -> None:
    """Pairs of this text continue in a way that neither n-grams nor priors expect."""
    drafter = LookupDrafter(LookupSettings.parse("ngram"))
    draft(drafter, item((1, 2, 1), tree=True), first=True)
    length = 3
    for new in range(100, 160):  # what follows is always new
        found = draft(drafter, item((new, 1), keep=length, tree=True))
        length += 2
    assert found.gains[0] < 0.1


def test_what_was_rolled_back_is_not_copied() -> None:
    drafter = LookupDrafter(LookupSettings.parse("ngram"))
    assert draft(drafter, item((1, 2, 1)), first=True).token_ids == (2, 1, 2)
    found = draft(drafter, item((5, 1), keep=3))  # its own draft was wrong
    assert (found.base, found.token_ids) == (5, (5, 1, 5))
    assert draft(drafter, item((), keep=99)).unknown


def test_a_closed_request_is_forgotten() -> None:
    drafter = LookupDrafter(LookupSettings())
    draft(drafter, item((1, 2, 1)), first=True)
    list(drafter.answer(DraftRequest(round=2, closed=(1,))))
    assert draft(drafter, item((1,))).unknown


def test_an_inline_drafter_answers_at_once() -> None:
    link = InlineLink(LookupDrafter(LookupSettings()), MonotonicClock())
    assert link.recv(10.0) is None  # without waiting
    link.send(DraftRequest(round=4, opened=(opened(),), items=(item((1, 2, 1)),)))
    answer = link.recv(0.0)
    assert isinstance(answer, Proposal)
    assert (answer.round, answer.items[0].token_ids) == (4, (2, 1, 2))
    with pytest.raises(ProtocolError, match="a Proposal was sent to a drafter"):
        link.send(answer)
    link.close()
    with pytest.raises(PeerLost):
        link.send(DraftRequest(round=5))


def test_a_store_is_read_as_it_was_written(tmp_path: Path) -> None:
    store = build_store([[1, 2, 3], [4, 2, 3, 9]], 0)
    save_store(tmp_path / "store", store, vocabulary="v", num_texts=2)
    drafter = LookupDrafter(LookupSettings.parse(f"recycle+store={tmp_path}/store"))
    assert draft(drafter, item((8, 4, 2)), first=True).token_ids == (3, 9)


def test_a_row_names_its_best_tokens() -> None:
    logits = torch.tensor([0.5, 2.0, 1.0])
    assert ScoreRow(logits, None).best(1) == [1]
    assert ScoreRow(logits, None).best(2) == [1, 2]
    ids = torch.tensor([7, 9, 8])
    assert ScoreRow(logits, ids).best(9) == [9, 8, 7]
    assert ScoreRow(logits[1:2], ids[1:2]).best(1) == [9]


@pytest.mark.parametrize("name", ["tokens.npy", "order.npy"])
def test_a_store_that_is_cut_off_while_it_is_read_costs_its_own_drafts_alone(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Reading the page that is gone would end the process."""
    texts = [[*range(1, 5000)], [4, 2, 3, 9]]
    save_store(tmp_path / "store", build_store(texts, 0), vocabulary="v", num_texts=2)
    drafter = LookupDrafter(LookupSettings.parse(f"ngram+store={tmp_path}/store"))
    assert draft(drafter, item((8, 2, 3)), first=True).token_ids
    os.truncate(tmp_path / "store" / name, 0)
    found = draft(drafter, item((7, 6, 7, 6, 7, 6, 4, 2, 7, 6)), first=True)
    assert found.token_ids[:2] == (4, 2)  # of its own text
    assert "lost a part of its files" in caplog.text
    assert len(records_of(caplog, "paceline.drafter")) == 1
    assert draft(drafter, item((7, 6, 7)), first=True).token_ids
    assert len(records_of(caplog, "paceline.drafter")) == 1
