"""The leader: receives requests from drivers, runs rounds, streams what is committed.

`runtime/engine/scheduler.py` decides which requests run, `runtime/engine/round.py` runs the rounds.
One thread runs `run`; other threads only put events into its inbox.
"""

import logging
import queue
import threading
from collections.abc import Container
from dataclasses import dataclass, replace
from itertools import count

from parallel.decoding.constraint import ConstraintBroken, ConstraintState
from parallel.messages import (
    Cancel,
    Committed,
    EngineStatus,
    Failed,
    Finished,
    Hello,
    Message,
    Ping,
    Pong,
    Submit,
)
from runtime.clock import Clock
from runtime.constraints.compiler import Compiled, Constraints
from runtime.engine.compiling import Compiling, WaitingRequest
from runtime.engine.drafter_ports import DrafterPorts
from runtime.engine.drivers import Drivers
from runtime.engine.engine_limits import EngineConfig, problem_of
from runtime.engine.prefill import share_prompt_budget
from runtime.engine.round import RoundRunner, cannot_continue
from runtime.engine.round_work import EngineWork
from runtime.engine.scheduler import Scheduler
from runtime.engine.sequence import DecodingSequence
from runtime.errors import DeadlineExceeded, InvalidValue, PacelineError, PeerError
from runtime.links.link import Link
from runtime.models.tokenizer import StopMatcher, Tokenizer
from runtime.rank.page_ledger import SlotLedger

_LOG = logging.getLogger("paceline.leader")


@dataclass(frozen=True, slots=True)
class _Joined:
    hello: Hello
    link: Link


@dataclass(frozen=True, slots=True)
class _Received:
    driver: int
    message: Message | PeerError


@dataclass(frozen=True, slots=True)
class _Left:
    drafter: str | None


@dataclass(frozen=True, slots=True)
class _Compiled:
    ticket: int
    constraint: Compiled


@dataclass(frozen=True, slots=True)
class _Stop:
    pass


_Event = _Joined | _Left | _Received | _Compiled | _Stop


class Engine:
    """Leads a target group and, where one is attached, a drafter."""

    def __init__(
        self,
        rounds: RoundRunner,
        ledger: SlotLedger,
        ports: DrafterPorts,
        config: EngineConfig,
        *,
        clock: Clock,
        tokenizer: Tokenizer | None,
        constraints: Constraints | None = None,
        adapters: Container[str] = frozenset(),
    ) -> None:
        """Prepare to lead; `adapters` names those that the target holds now, and may change."""
        self._rounds = rounds
        self._ledger = ledger
        self._ports = ports
        self._config = config
        self._clock = clock
        self._tokenizer = tokenizer
        self._adapters = adapters
        self._inbox: queue.SimpleQueue[_Event] = queue.SimpleQueue()
        self._compiling = Compiling(
            constraints, lambda ticket, found: self._inbox.put(_Compiled(ticket, found))
        )
        self._drivers = Drivers(lambda driver, error: self._inbox.put(_Received(driver, error)))
        self._sequence_numbers = count(1)
        self._scheduler = Scheduler(ledger, rounds.release, max_batch=config.max_batch)
        self._stopping = False
        self._heartbeat_at_s = 0.0
        """When an idle engine sends its next heartbeat: at once after the last round."""
        self._attached = threading.Condition()
        self._num_attached = 0

    # --- from other threads -------------------------------------------------------------------

    def join(self, hello: Hello, link: Link) -> None:
        """Serve a peer that connected; returns when a driver is lost, at once for a drafter."""
        if hello.role != "driver":
            self._inbox.put(_Joined(hello, link))
            return
        driver = self._drivers.add(link)
        while not self._stopping:
            try:
                message = link.recv(self._config.heartbeat_s)
            except PeerError as error:
                self._inbox.put(_Received(driver, error))
                return
            if message is not None:
                self._inbox.put(_Received(driver, message))

    def await_drafter(self, num_attached: int, timeout_s: float) -> int:
        """Wait until more than `num_attached` drafters have attached so far; return how many."""
        with self._attached:
            self._attached.wait_for(lambda: self._num_attached > num_attached, timeout_s)
            return self._num_attached

    def leave(self, drafter: str | None = None) -> None:
        """Detach a drafter, or all (None); requests in flight continue with others, or without."""
        self._inbox.put(_Left(drafter))

    def stop(self) -> None:
        """End `run` after the round in progress."""
        self._inbox.put(_Stop())

    # --- the loop -----------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until `stop`; blocks.

        Raises:
            PacelineError: a target rank failed; every driver has been notified.
        """
        try:
            while not self._stopping:
                self._drain_inbox()
                self._drop_expired()
                self._scheduler.admit(self._clock.now_s())
                self._scheduler.reserve_round()
                if self._scheduler.running:
                    self._round()
            self._rounds.stop()
        except Exception as error:
            kind = type(error).__name__ if isinstance(error, PacelineError) else "PacelineError"
            self._drivers.send_all(Failed(request=None, kind=kind, message=str(error)))
            raise
        finally:
            self._stopping = True
            self._ports.close()
            self._drivers.close()
            self._compiling.close()

    def _drain_inbox(self) -> None:
        """Handle the events that have arrived; without requests, wait for one and send heartbeats.

        Heartbeats are due by the clock: a stream of pings must not hold them up.
        """
        if self._scheduler.is_idle:
            now_s = self._clock.now_s()
            if now_s >= self._heartbeat_at_s:
                self._rounds.settle()
                self._heartbeat_at_s = now_s + self._config.heartbeat_s
            try:
                self._handle_event(self._inbox.get(timeout=self._heartbeat_at_s - now_s))
            except queue.Empty:
                return
        while not self._inbox.empty():
            self._handle_event(self._inbox.get())

    def _handle_event(self, event: _Event) -> None:
        match event:
            case _Stop():
                self._stopping = True
            case _Joined(hello, link):
                self._attach(hello, link)
            case _Left(None):
                self._ports.close()
            case _Left(str(drafter)):
                self._ports.leave(drafter)
            case _Received(driver, message):
                self._handle_message(driver, message)
            case _Compiled(ticket, constraint):
                waiting = self._compiling.take(ticket)
                if waiting is not None:
                    self._compiled(waiting, constraint)

    def _attach(self, hello: Hello, link: Link) -> None:
        if not self._ports.attach(hello, link):
            return
        self._rounds.meet(hello)
        if not self._scheduler.running:
            self._rounds.measure(self._config.max_positions)
        with self._attached:
            self._num_attached += 1
            self._attached.notify_all()

    def _handle_message(self, driver: int, message: Message | PeerError) -> None:
        match message:
            case Submit():
                self._submit(driver, message)
            case Cancel(request=request):
                for sequence in self._scheduler.of_driver(driver, request):
                    self._finish(sequence, "cancelled")
                for _ in self._compiling.drop(driver, request):
                    self._drivers.send(driver, Finished(request=request, reason="cancelled"))
            case Ping():
                self._drivers.send(driver, self._pong(message))
            case PeerError():
                self._drop_driver(driver, message)
            case _:
                _LOG.warning("driver %d sent an unexpected %s", driver, type(message).__name__)

    def _submit(self, driver: int, submit: Submit) -> None:
        problem = problem_of(
            submit,
            self._config,
            self._ledger,
            self._tokenizer,
            adapters=self._adapters,
            takes_constraints=self._compiling.constraints is not None,
        )
        if problem is not None:
            self._reject(driver, submit, problem)
            return
        waiting = WaitingRequest(driver=driver, submit=submit, submitted_s=self._clock.now_s())
        if submit.sampling.constraint is None:
            self._queue(waiting, None)
        else:
            self._compiling.start(waiting)

    def _compiled(self, waiting: WaitingRequest, constraint: Compiled) -> None:
        """Queue a request whose constraint is compiled, or reject it."""
        if isinstance(constraint, InvalidValue):
            self._reject(waiting.driver, waiting.submit, str(constraint))
            return
        try:
            self._queue(waiting, constraint)
        except ConstraintBroken as error:
            self._reject(waiting.driver, waiting.submit, str(error))

    def _reject(self, driver: int, submit: Submit, problem: str) -> None:
        failed = Failed(request=submit.request, kind="ConfigError", message=problem)
        self._drivers.send(driver, failed)

    def _queue(self, waiting: WaitingRequest, constraint: ConstraintState | None) -> None:
        submit = waiting.submit
        sequence = DecodingSequence(
            next(self._sequence_numbers),
            submit,
            driver=waiting.driver,
            submitted_s=waiting.submitted_s,
            max_tokens=min(submit.max_tokens, self._config.max_positions - len(submit.prompt_ids)),
            end_ids=self._config.end_ids_of(submit),
            constraint=constraint,
            aligned=waiting.aligned,
        )
        if submit.stop:
            assert self._tokenizer is not None
            sequence.stop_matcher = StopMatcher(self._tokenizer, submit.stop)
        self._scheduler.push(sequence)
        reason = self._end_of_output(sequence)
        if reason is not None:  # the previous engine was lost before it could report the end
            self._finish(sequence, reason)

    def _drop_expired(self) -> None:
        """Fail requests whose deadline has passed, queued or running."""
        for sequence, was_running in self._scheduler.drop_expired(self._clock.now_s()):
            where = "was running" if was_running else "was queued"
            error = f"{sequence.submit.timeout_s:.3g} s were over while the request {where}"
            self._send_failed(sequence, DeadlineExceeded(error))

    def _round(self) -> None:
        running = self._scheduler.running
        shares = share_prompt_budget(running, self._config.prefill_chunk)
        losses = self._ports.num_losses
        works = self._rounds.run(shares.decoding, shares.chunks, shares.syncing)
        now_s = self._heartbeat_at_s = self._clock.now_s()
        for work in works:
            if self._ports.num_losses > losses:
                work.sequence.counters.drafter_lost = True
            if work.commit is not None:
                try:
                    self._commit(work, now_s)
                    continue
                except ConstraintBroken as error:  # another request met a limit that both share
                    work.error = cannot_continue(error)
            self._scheduler.discard(work.sequence)
            self._send_failed(work.sequence, PacelineError(work.error))
        self._scheduler.record_prefixes(running)

    def _commit(self, work: EngineWork, now_s: float) -> None:
        sequence, commit = work.sequence, work.commit
        assert commit is not None
        taken: list[int] = []
        reason = None
        for token in commit.token_ids:
            taken.append(token)
            sequence.append(token)
            reason = self._end(sequence, token)
            if reason is not None:
                break
        commit = commit.first(len(taken))
        self._rounds.count(commit)
        counters = sequence.counters
        counters.count(commit)
        if counters.first_token_s is None:
            counters.first_token_s = now_s
        sequence.num_cached = len(sequence.token_ids) - 1
        self._scheduler.charge(sequence, len(taken))
        self._drivers.send(
            sequence.driver,
            Committed(
                request=sequence.submit.request,
                token_ids=tuple(taken),
                logprobs=work.logprobs[: len(taken)],
                num_accepted=commit.num_accepted,
                is_recovered=commit.rejected,
            ),
        )
        if reason is not None:
            self._finish(sequence, reason)

    def _end(self, sequence: DecodingSequence, token: int) -> str | None:
        """Return why the sequence ends with this token, or None."""
        if token in sequence.end_ids:
            return "stop"
        if sequence.stop_matcher is not None and sequence.stop_matcher.push(token):
            return "stop"
        return "length" if sequence.num_remaining <= 0 else None

    def _end_of_output(self, sequence: DecodingSequence) -> str | None:
        """Return why a sequence has ended with tokens that it brought along, or None."""
        reasons = [self._end(sequence, token) for token in sequence.submit.output_ids]
        return reasons[-1] if reasons else None

    def _finish(self, sequence: DecodingSequence, reason: str) -> None:
        self._scheduler.drop(sequence)
        stats = sequence.stats(self._clock.now_s())
        finished = Finished(
            request=sequence.submit.request,
            reason=reason,
            stats=stats,
            complete=sequence.is_complete,
        )
        self._drivers.send(sequence.driver, finished)

    def _send_failed(self, sequence: DecodingSequence, error: PacelineError) -> None:
        request, kind = sequence.submit.request, type(error).__name__
        self._drivers.send(sequence.driver, Failed(request=request, kind=kind, message=str(error)))

    def _pong(self, ping: Ping) -> Pong:
        now_s = self._clock.now_s()
        rounds = self._rounds.log.take(now_s) if ping.wants_rounds else ()
        return Pong(number=ping.number, status=self._status(), now_s=now_s, rounds=rounds)

    def _status(self) -> EngineStatus:
        ledger, totals = self._ledger, self._rounds.totals
        scheduler, counts = self._scheduler, self._scheduler.counts
        return replace(
            totals,
            running=len(scheduler.running),
            waiting=scheduler.num_waiting + len(self._compiling),
            pages_used=ledger.num_pages - ledger.num_available_pages,
            pages=ledger.num_pages,
            drafter=self._ports.name,
            drafter_losses=self._ports.num_losses,
            drafters=len(self._ports.attached),
            drafter_faults=self._ports.num_faults,
            preemptions=counts.preemptions,
            prompt_tokens=counts.prompt_tokens,
            prefix_query_tokens=counts.prefix_query_tokens,
            prefix_hit_tokens=counts.prefix_hit_tokens,
            expired=counts.expired,
        )

    def _drop_driver(self, driver: int, error: PeerError) -> None:
        """Forget a lost driver and free what its requests hold."""
        _LOG.info("driver %d is lost: %s", driver, error)
        self._drivers.drop(driver)
        self._compiling.drop(driver)
        for sequence in self._scheduler.of_driver(driver):
            self._finish(sequence, "cancelled")
