"""Journals on disk: what was kept comes back, what is torn is cut, what is foreign is rejected."""

import asyncio
import logging
import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from parallel.decoding.types import SamplingParams, TokenLogprobs
from parallel.messages import Committed, Finished, RequestStats
from runtime.errors import ConfigError, DeadlineExceeded
from runtime.gateway.journal import Journal, OpenRequest
from runtime.gateway.journal_store import JournalStore
from runtime.gateway.limits import GatewayDown
from runtime.gateway.metrics import ServiceMetrics
from tests.support.rig import make_submit

METRICS = ServiceMetrics()


def make_request(number: int, name: str = "mine", samples: int = 1) -> OpenRequest:
    submit = make_submit(prompt=(1, 2, number), sampling=SamplingParams(temperature=1, seed=9))
    submits = [replace(submit, request=number + i, sample_index=i) for i in range(samples)]
    return OpenRequest(client="me", name=name, samples=[Journal(submit=s) for s in submits])


def commit(store: JournalStore, journal: Journal, *token_ids: int) -> None:
    logprobs = tuple(
        TokenLogprobs(logprob=-0.5, top_ids=(t,), top_logprobs=(-0.5,)) for t in token_ids
    )
    message = Committed(
        request=journal.submit.request,
        token_ids=token_ids,
        logprobs=logprobs,
        num_accepted=len(token_ids) - 1,
    )
    store.committed(message)
    journal.append(message, METRICS)


def test_everything_comes_back(tmp_path: Path) -> None:
    store = JournalStore.open(tmp_path, "the toy")
    open_, done, failed = (
        make_request(1, "open", 2),
        make_request(5, "done"),
        make_request(7, "bad"),
    )
    for request in (open_, done, failed):
        store.opened(request)
    commit(store, open_.samples[0], 4, 5)
    commit(store, open_.samples[1], 6)
    commit(store, open_.samples[0], 7)
    commit(store, done.samples[0], 8)
    done.samples[0].finished = Finished(request=5, reason="stop", stats=RequestStats(rounds=3))
    store.ended(done.samples[0])
    failed.samples[0].error = DeadlineExceeded("too late")
    store.ended(failed.samples[0])
    store.close()
    again = JournalStore.open(tmp_path, "the toy")
    found = {request.name: request for request in again.restored}
    assert set(found) == {"open", "done", "bad"}
    for request in (open_, done, failed):
        for mine, theirs in zip(request.samples, found[request.name].samples, strict=True):
            assert theirs.submit == mine.submit
            assert theirs.token_ids == mine.token_ids
            assert theirs.logprobs == mine.logprobs
            assert theirs.sources == mine.sources
            assert theirs.finished == mine.finished
            assert theirs.submitted_s == pytest.approx(mine.submitted_s, abs=1.0)
    assert isinstance(found["bad"].samples[0].error, DeadlineExceeded)
    assert found["open"].is_open
    again.close()


def test_what_is_dropped_or_nameless_or_the_servers_fault_is_not_kept(tmp_path: Path) -> None:
    store = JournalStore.open(tmp_path, "the toy")
    dropped, nameless, cut = make_request(1, "gone"), make_request(2, ""), make_request(3, "cut")
    for request in (dropped, nameless, cut):
        store.opened(request)
        commit(store, request.samples[0], 4)
    store.dropped(dropped)
    cut.samples[0].error = GatewayDown("the engine is gone")
    store.ended(cut.samples[0])
    store.close()
    again = JournalStore.open(tmp_path, "the toy")
    assert [request.name for request in again.restored] == ["cut"]
    assert again.restored[0].is_open
    again.close()


@pytest.mark.parametrize("seed", range(20))
def test_a_torn_or_damaged_tail_is_cut_and_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, seed: int
) -> None:
    draw = random.Random(seed)
    store = JournalStore.open(tmp_path, "the toy")
    request = make_request(1)
    store.opened(request)
    whole = (tmp_path / "journal").stat().st_size
    for token in range(20):
        commit(store, request.samples[0], token)
    store.close()
    data = bytearray((tmp_path / "journal").read_bytes())
    place = draw.randrange(whole + 1, len(data))
    if seed % 2:
        del data[place:]
    else:
        data[place] ^= 1 << draw.randrange(8)
    (tmp_path / "journal").write_bytes(data)
    with caplog.at_level(logging.WARNING):
        again = JournalStore.open(tmp_path, "the toy")
    (found,) = again.restored
    tokens = found.samples[0].token_ids
    assert tokens == list(range(len(tokens)))
    assert len(tokens) < 20
    at_boundary = (place - whole) % ((len(data) - whole) // 20 or 1) == 0
    assert "torn or damaged: cut off" in caplog.text or at_boundary
    commit(again, found.samples[0], *range(len(tokens), 20))  # it continues from there
    again.close()
    last = JournalStore.open(tmp_path, "the toy")
    assert last.restored[0].samples[0].token_ids == list(range(20))
    last.close()


def test_the_file_is_bounded(tmp_path: Path) -> None:
    store = JournalStore.open(tmp_path, "the toy", compact_bytes=20_000)
    kept: list[OpenRequest] = []
    for number in range(1, 400):
        request = make_request(number, f"request {number}")
        store.opened(request)
        kept.append(request)
        for token in range(10):
            commit(store, request.samples[0], token)
        if len(kept) > 5:
            store.dropped(kept.pop(0))
        asyncio.run(store.compact(kept))
        assert (tmp_path / "journal").stat().st_size < 30_000
    store.close()
    again = JournalStore.open(tmp_path, "the toy", compact_bytes=20_000)
    assert [request.name for request in again.restored] == [request.name for request in kept]
    assert all(request.samples[0].token_ids == list(range(10)) for request in again.restored)
    again.close()


def test_what_happens_while_the_file_is_rewritten_is_kept(tmp_path: Path) -> None:
    """While it is rewritten, requests come, grow, end and go; a kill at any step loses nothing."""
    store = JournalStore.open(tmp_path / "now", "the toy", compact_bytes=1)
    alive = [make_request(number, f"request {number}") for number in range(1, 9)]
    for request in alive:
        store.opened(request)

    def happen(step: int) -> None:
        alive.append(make_request(100 + step, f"new {step}"))
        store.opened(alive[-1])
        for request in alive:
            if request.is_open:
                commit(store, request.samples[0], step)
        ending = alive[step % len(alive)].samples[0]
        if ending.is_open:
            number = ending.submit.request
            ending.end(Finished(request=number, reason="stop", stats=RequestStats()))
            store.ended(ending)
        store.dropped(alive.pop(step * 5 % len(alive)))

    async def rewrite() -> int:
        steps = 0
        rewriting = asyncio.create_task(store.compact(list(alive)))
        while not rewriting.done():
            await asyncio.sleep(0)
            happen(steps)
            steps += 1
            if steps < 12:
                check(killed(tmp_path / "now", tmp_path / f"kill {steps}"), alive)
        return steps

    before = (tmp_path / "now" / "journal").stat().st_ino
    assert asyncio.run(rewrite()) >= 8
    assert (tmp_path / "now" / "journal").stat().st_ino != before
    happen(500)
    store.close()
    check(tmp_path / "now", alive)


def killed(directory: Path, at: Path) -> Path:
    """Return what a kill at this moment would leave on disk."""
    return Path(shutil.copytree(directory, at))


def check(directory: Path, alive: list[OpenRequest]) -> None:
    """Compare what comes back from a directory with what is known."""
    again = JournalStore.open(directory, "the toy")
    found = {request.name: request.samples[0] for request in again.restored}
    assert set(found) == {request.name for request in alive}
    for request in alive:
        mine, theirs = request.samples[0], found[request.name]
        assert theirs.token_ids == mine.token_ids
        assert theirs.finished == mine.finished
    again.close()


def test_foreign_files_and_other_owners_are_rejected(tmp_path: Path) -> None:
    store = JournalStore.open(tmp_path, "the toy")
    with pytest.raises(ConfigError, match="another server has its journal"):
        JournalStore.open(tmp_path, "the toy")
    store.opened(make_request(1))
    store.close()
    with pytest.raises(ConfigError, match="has requests of the toy, this server runs another"):
        JournalStore.open(tmp_path, "another")
    (tmp_path / "journal").write_bytes(b"a user's diary\n" * 9)
    with pytest.raises(ConfigError, match="is not a journal of this version of Paceline"):
        JournalStore.open(tmp_path, "the toy")
    assert (tmp_path / "journal").read_bytes().startswith(b"a user's diary")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="no journal can be written to"):
        JournalStore.open(tmp_path / "file", "the toy")
