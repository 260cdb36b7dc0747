"""A drafter in a thread of the leader drafts, fails and ends as one behind a link does."""

import threading
from collections.abc import Iterator

import pytest

from parallel.decoding.types import SamplingParams
from parallel.group import SoloGroup
from parallel.messages import DraftRequest, Hello
from runtime.drafters.drafting import DraftPart, introduction
from runtime.drafters.model_drafting import ModelDrafter
from runtime.errors import PeerLost
from runtime.hosts.drafter_thread import start_drafter_thread
from runtime.links.link import Link
from runtime.rank.page_ledger import SlotLedger
from runtime.rank.shard import ShardRunner
from runtime.rank.toy_shard import PrefixShard
from tests.support.rig import PAGE, VOCAB, Rig, expected_tokens, make_submit

DEADLINE_S = 30


class Watched(ModelDrafter):
    """The toy's drafter; notes the thread that drafts, and its end. Fails if it is to."""

    def __init__(self, *, fails: bool = False) -> None:
        shard = PrefixShard(VOCAB, page_size=PAGE, noise=0.3)
        super().__init__(ShardRunner(shard, SoloGroup()), SlotLedger(num_pages=400, page_size=PAGE))
        self.threads: set[str] = set()
        self.closed = threading.Event()
        self._fails = fails

    def answer(self, request: DraftRequest) -> Iterator[DraftPart]:
        self.threads.add(threading.current_thread().name)
        if self._fails:
            raise ZeroDivisionError("a fault of the drafter")
        yield from super().answer(request)

    def close(self) -> None:
        super().close()
        self.closed.set()


def started(drafter: Watched) -> tuple[Hello, Link]:
    hello = introduction(drafter, "beside", VOCAB)
    link = start_drafter_thread(drafter, hello, device="cpu", num_threads=1, recorder=None)
    return hello, link


@pytest.mark.parametrize("sampling", [SamplingParams(), SamplingParams(temperature=0.8, seed=2)])
def test_the_thread_drafts_for_the_target(rig: Rig, sampling: SamplingParams) -> None:
    drafter = Watched()
    rig.engine.join(*started(drafter))
    submit = make_submit(mode="pearl", sampling=sampling)
    outcome = rig.run([submit])[0]
    assert outcome.token_ids == expected_tokens(submit)
    assert outcome.finished is not None
    assert outcome.finished.stats.accepted > 0
    assert drafter.threads == {"beside"}


def test_a_thread_that_fails_leaves_the_target_without_drafts(rig: Rig) -> None:
    rig.engine.join(*started(Watched(fails=True)))
    submit = make_submit(mode="pearl")
    assert rig.run([submit])[0].token_ids == expected_tokens(submit)


def test_the_thread_ends_with_its_link() -> None:
    drafter = Watched()
    _, link = started(drafter)
    link.close()
    assert drafter.closed.wait(DEADLINE_S)
    with pytest.raises(PeerLost):
        link.send(DraftRequest(round=1))
