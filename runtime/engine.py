"""The leader: takes requests from drivers, runs rounds, streams what is committed.

It owns the queue and the sequences in flight; `runtime/round.py` makes the rounds.
One thread runs `run`; other threads only put things into its inbox.
"""

import logging
import queue
from collections import deque
from dataclasses import dataclass
from itertools import count

from parallel.decoding.types import DecodeMode
from parallel.messages import (
    Cancel,
    Committed,
    Failed,
    Finished,
    Hello,
    Message,
    Ping,
    Pong,
    Submit,
)
from parallel.model.batch import SequenceRows
from runtime.clock import Clock
from runtime.drafter_port import DrafterPort
from runtime.errors import PacelineError, PeerError
from runtime.ledger import SlotLedger
from runtime.links.link import Link
from runtime.round import RoundRunner, Work
from runtime.sequence import Sequence
from runtime.text import StopMatcher, Tokenizer

_LOG = logging.getLogger("paceline.leader")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Limits of one leader."""

    vocab_size: int
    max_positions: int
    """Longest sequence the target takes, in tokens."""
    max_batch: int = 16
    """Sequences decoded at once; more wait in order."""
    prefill_chunk: int = 256
    """Prompt tokens a round processes beside the decoding sequences."""
    eos_ids: frozenset[int] = frozenset()
    heartbeat_s: float = 2.0
    """How often an idle leader lets its followers hear of it."""


@dataclass(frozen=True, slots=True)
class _Joined:
    hello: Hello
    link: Link


@dataclass(frozen=True, slots=True)
class _Received:
    driver: int
    message: Message | PeerError


@dataclass(frozen=True, slots=True)
class _Stop:
    pass


class Engine:
    """Leads a target group and, where one is attached, a drafter."""

    def __init__(
        self,
        rounds: RoundRunner,
        ledger: SlotLedger,
        port: DrafterPort,
        config: EngineConfig,
        *,
        clock: Clock,
        tokenizer: Tokenizer | None,
    ) -> None:
        self._rounds = rounds
        self._ledger = ledger
        self._port = port
        self._config = config
        self._clock = clock
        self._tokenizer = tokenizer
        self._inbox: queue.SimpleQueue[_Joined | _Received | _Stop] = queue.SimpleQueue()
        self._drivers: dict[int, Link] = {}
        self._driver_numbers = count(1)
        self._sequence_numbers = count(1)
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []
        self._stopping = False

    # --- from other threads -------------------------------------------------------------------

    def join(self, hello: Hello, link: Link) -> None:
        """Serve a peer that connected; returns when a driver is gone, at once for a drafter."""
        if hello.role != "driver":
            self._inbox.put(_Joined(hello, link))
            return
        driver = next(self._driver_numbers)
        self._drivers[driver] = link
        while not self._stopping:
            try:
                message = link.recv(self._config.heartbeat_s)
            except PeerError as error:
                self._inbox.put(_Received(driver, error))
                return
            if message is not None:
                self._inbox.put(_Received(driver, message))

    def stop(self) -> None:
        """End `run` after the round in progress."""
        self._inbox.put(_Stop())

    # --- the loop -----------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until `stop`; blocks.

        Raises:
            PacelineError: a target rank failed; every driver has been told before.
        """
        try:
            while not self._stopping:
                self._take_inbox()
                self._admit()
                if self._running:
                    self._round()
            self._rounds.stop()
        except Exception as error:
            kind = type(error).__name__ if isinstance(error, PacelineError) else "PacelineError"
            for driver in list(self._drivers):
                self._send(driver, Failed(request=None, kind=kind, message=str(error)))
            raise
        finally:
            self._stopping = True
            self._port.close()
            for link in list(self._drivers.values()):
                link.close()

    def _take_inbox(self) -> None:
        """Take what has come in; with nothing to do, wait for it and show signs of life."""
        if not (self._running or self._waiting):
            try:
                self._take(self._inbox.get(timeout=self._config.heartbeat_s))
            except queue.Empty:
                self._rounds.settle()
                return
        while not self._inbox.empty():
            self._take(self._inbox.get())

    def _take(self, event: _Joined | _Received | _Stop) -> None:
        match event:
            case _Stop():
                self._stopping = True
            case _Joined(hello, link):
                self._attach(hello, link)
            case _Received(driver, message):
                self._handle(driver, message)

    def _attach(self, hello: Hello, link: Link) -> None:
        self._port.attach(hello, link)
        if not self._running:
            self._rounds.measure(self._config.max_positions)
        for sequence in self._running:
            sequence.known_to_drafter = False

    def _handle(self, driver: int, message: Message | PeerError) -> None:
        match message:
            case Submit():
                self._submit(driver, message)
            case Cancel(request=request):
                for sequence in [*self._waiting, *self._running]:
                    if sequence.driver == driver and sequence.submit.request == request:
                        self._finish(sequence, "cancelled")
            case Ping(number=number):
                self._send(driver, Pong(number=number))
            case PeerError():
                self._drop_driver(driver, message)
            case _:
                _LOG.warning("driver %d sent an unexpected %s", driver, type(message).__name__)

    def _submit(self, driver: int, submit: Submit) -> None:
        problem = self._problem(submit)
        if problem is not None:
            failed = Failed(request=submit.request, kind="ConfigError", message=problem)
            self._send(driver, failed)
            return
        sequence = Sequence(
            next(self._sequence_numbers),
            submit,
            driver=driver,
            submitted_s=self._clock.now_s(),
            max_tokens=min(submit.max_tokens, self._config.max_positions - len(submit.prompt_ids)),
        )
        if submit.stop:
            assert self._tokenizer is not None
            sequence.stop_matcher = StopMatcher(self._tokenizer, submit.stop)
        self._waiting.append(sequence)

    def _problem(self, submit: Submit) -> str | None:
        """Return why a request cannot be served, or None."""
        config, num_prompt = self._config, len(submit.prompt_ids)
        if num_prompt == 0:
            return "the prompt has no tokens"
        if submit.max_tokens < 1:
            return f"max_tokens is {submit.max_tokens}: ask for at least 1"
        if not all(0 <= token < config.vocab_size for token in submit.prompt_ids):
            return f"a prompt token lies outside the vocabulary of {config.vocab_size}"
        if num_prompt >= config.max_positions:
            return (
                f"the prompt has {num_prompt} tokens, the model's context holds "
                f"{config.max_positions}: shorten the prompt"
            )
        capacity = min(num_prompt + submit.max_tokens, config.max_positions)
        if not self._ledger.can_ever_fit(capacity):
            return (
                f"prompt and output need {capacity} tokens of cache, it holds "
                f"{self._ledger.capacity}: raise --cache-tokens or lower --max-tokens"
            )
        if submit.stop and self._tokenizer is None:
            return "stop strings need a tokenizer, which a virtual target does not have"
        return None

    def _admit(self) -> None:
        """Start waiting sequences in order of arrival while slots and pages last."""
        while self._waiting and len(self._running) < self._config.max_batch:
            if not self._ledger.fits(self._waiting[0].capacity):
                return
            sequence = self._waiting.popleft()
            self._running.append(sequence)
            self._ledger.open(sequence.number, sequence.capacity)

    def _round(self) -> None:
        decoding, prefilling, syncing = self._split()
        losses = self._port.num_losses
        works = self._rounds.run(decoding, prefilling, syncing)
        now_s = self._clock.now_s()
        for work in works:
            self._commit(work, now_s)
            if self._port.num_losses > losses:
                work.sequence.counters.drafter_lost = True

    def _split(self) -> tuple[list[Sequence], list[SequenceRows], list[Sequence]]:
        """Share the round's prompt budget, oldest first; who has no more to read decodes."""
        budget = self._config.prefill_chunk
        decoding: list[Sequence] = []
        chunks: list[SequenceRows] = []
        syncing: list[Sequence] = []
        for sequence in self._running:
            unread = len(sequence.token_ids) - 1 - sequence.num_cached
            if unread <= budget:
                budget -= unread
                decoding.append(sequence)
                continue
            if sequence.submit.mode is not DecodeMode.AUTOREGRESSIVE:
                syncing.append(sequence)
            if budget > 0:
                stop = sequence.num_cached + budget
                chunk = tuple(sequence.token_ids[sequence.num_cached : stop])
                chunks.append(
                    SequenceRows(
                        slot=sequence.number,
                        start=sequence.num_cached,
                        token_ids=chunk,
                        num_logits=0,
                    )
                )
                sequence.num_cached = stop
                budget = 0
        return decoding, chunks, syncing

    def _commit(self, work: Work, now_s: float) -> None:
        sequence, commit = work.sequence, work.commit
        assert commit is not None
        counters = sequence.counters
        counters.count(commit)
        if counters.first_token_s is None:
            counters.first_token_s = now_s
        taken: list[int] = []
        reason = None
        for token in commit.token_ids:
            taken.append(token)
            sequence.token_ids.append(token)
            reason = self._end(sequence, token)
            if reason is not None:
                break
        sequence.num_cached = len(sequence.token_ids) - 1
        request = sequence.submit.request
        self._send(sequence.driver, Committed(request=request, token_ids=tuple(taken)))
        if reason is not None:
            self._finish(sequence, reason)

    def _end(self, sequence: Sequence, token: int) -> str | None:
        """Return why the sequence ends with this token, or None."""
        if token in self._config.eos_ids and not sequence.submit.ignore_eos:
            return "stop"
        if sequence.stop_matcher is not None and sequence.stop_matcher.push(token):
            return "stop"
        return "length" if sequence.num_wanted <= 0 else None

    def _finish(self, sequence: Sequence, reason: str) -> None:
        if sequence in self._running:
            self._running.remove(sequence)
            self._rounds.release(sequence)
        else:
            self._waiting.remove(sequence)
        stats = sequence.stats(self._clock.now_s())
        finished = Finished(request=sequence.submit.request, reason=reason, stats=stats)
        self._send(sequence.driver, finished)

    def _send(self, driver: int, message: Message) -> None:
        link = self._drivers.get(driver)
        if link is None:
            return
        try:
            link.send(message)
        except PeerError as error:
            self._inbox.put(_Received(driver, error))

    def _drop_driver(self, driver: int, error: PeerError) -> None:
        """Forget a driver that is gone and free what its requests hold."""
        _LOG.info("driver %d is gone: %s", driver, error)
        link = self._drivers.pop(driver, None)
        if link is not None:
            link.close()
        for sequence in [*self._waiting, *self._running]:
            if sequence.driver == driver:
                self._finish(sequence, "cancelled")
