"""An engine with its drafters in virtual time: one thread, so every run repeats itself exactly."""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, auto

from parallel.batch import SequenceRows
from parallel.group import Group, SoloGroup
from parallel.messages import Committed, DraftRequest, Hello, Message, Ping, Pong, Proposal, Submit
from parallel.model.backend import ForwardOutputs
from parallel.rounds.controller import DraftLengthController
from runtime.clock import ManualClock
from runtime.constraints.compiler import Constraints
from runtime.drafters.drafting import Drafter, introduction
from runtime.engine.drafter_ports import DrafterPorts
from runtime.engine.engine import Engine
from runtime.engine.engine_limits import EngineConfig
from runtime.engine.round import RoundRunner
from runtime.errors import PeerLost
from runtime.links.codec import decode, encode
from runtime.rank.page_ledger import SlotLedger
from runtime.rank.shard import ModelShard, ShardRunner, StepScores
from runtime.rank.step_plan import StepPlan, encode_plan
from runtime.rank.toy_shard import PrefixShard
from tests.support.rig import PAGE, VOCAB, Outcome, record

HEARTBEAT_S = 0.02  # of real time, which an engine without work waits for messages


class Fate(Enum):
    """What happens to one answer of a drafter."""

    ARRIVES = auto()
    LATE = auto()
    LOST = auto()
    DIES = auto()


@dataclass(kw_only=True)
class Times:
    """Virtual seconds."""

    target_s: Callable[[int], float] = lambda positions: 5.0 + 0.2 * positions
    step_s: float = 1.0
    latency_s: float = 0.1
    late_s: float = 40.0
    wait_budget_s: float = 30.0


@dataclass
class Log:
    """Everything that crossed a link or went to the target's ranks, with its virtual time."""

    clock: ManualClock
    lines: list[tuple[str, str]] = field(default_factory=list)

    def note(self, what: str, data: bytes) -> None:
        self.lines.append((f"{self.clock.now_s():.6f} {what}", data.hex()))


class TimedShard:
    """A shard whose forward takes virtual time."""

    def __init__(self, shard: ModelShard, clock: ManualClock, times: Times) -> None:
        self._shard, self._clock, self._times = shard, clock, times
        self.vocab_size, self.max_positions, self.head = shard.vocab_size, 0, shard.head

    def hold(self, slot: int, pages: Sequence[int], length: int) -> None:
        self._shard.hold(slot, pages, length)

    def free(self, slot: int) -> None:
        self._shard.free(slot)

    def forward(self, rows: Sequence[SequenceRows], width: int) -> ForwardOutputs:
        if rows:
            self._clock.advance(self._times.target_s(sum(row.num_logits for row in rows)))
        return self._shard.forward(rows, width)


class LoggingRunner(ShardRunner):
    """The target's group, with its plans in the log."""

    def __init__(self, shard: ModelShard, log: Log, group: Group) -> None:
        super().__init__(shard, group)
        self._log = log

    def decide(self, plan: StepPlan) -> StepScores:
        self._log.note("plan", encode_plan(plan))
        return super().decide(plan)


class TimedLink:
    """The leader's end of a link to a drafter that works in virtual time, beside the target."""

    def __init__(
        self, drafter: Drafter, clock: ManualClock, times: Times, log: Log, fates: Sequence[Fate]
    ) -> None:
        self.peer = "timed drafter"
        self._drafter, self._clock, self._times, self._log = drafter, clock, times, log
        self._fates = deque(fates)
        self._free_s = 0.0
        self._answers: deque[tuple[float, bytes]] = deque()
        self._ends: list[tuple[float, Proposal]] = []
        """Of the newest answer: where it may end, and the part sent then."""
        self._fate = Fate.ARRIVES
        self._dead = False

    def send(self, message: Message) -> None:
        self._log.note("ask", encode(message))
        if self._dead:
            raise PeerLost("the drafter died")
        assert isinstance(message, DraftRequest)
        fate = self._fates.popleft() if message.items and self._fates else Fate.ARRIVES
        received_s = self._clock.now_s() + self._times.latency_s
        self._interrupt(received_s)
        begin_s = max(received_s, self._free_s)
        self._ends = []
        for part in self._drafter.answer(message):
            steps = 1 if part.partial and not part.num_steps else max(part.num_steps, 1)
            self._free_s = begin_s + steps * self._times.step_s
            proposal = Proposal(
                round=message.round,
                items=part.items,
                draft_s=self._free_s - begin_s,
                partial=part.partial,
                num_steps=part.num_steps,
            )
            if part.can_end:
                self._ends.append((self._free_s, proposal))
            if fate in (Fate.ARRIVES, Fate.LATE):
                self._answers.append((self._sent_s(self._free_s, fate), encode(proposal)))
        self._fate = fate
        self._dead = self._dead or fate is Fate.DIES

    def _sent_s(self, made_s: float, fate: Fate) -> float:
        late_s = self._times.late_s if fate is Fate.LATE else 0.0
        return made_s + self._times.latency_s + late_s

    def _interrupt(self, now_s: float) -> None:
        """End an answer that may end: the step in progress is its last one."""
        end = next((end for end in self._ends if end[0] >= now_s), None)
        if end is None or not end[1].partial:
            return
        self._free_s, proposal = end
        latest_s = self._sent_s(self._free_s, self._fate)
        had_more = any(arrives_s > latest_s for arrives_s, _ in self._answers)
        self._answers = deque(answer for answer in self._answers if answer[0] <= latest_s)
        if had_more:
            last = replace(proposal, items=(), partial=False)
            self._answers.append((latest_s, encode(last)))

    def recv(self, timeout_s: float) -> Message | None:
        now_s = self._clock.now_s()
        if self._answers and self._answers[0][0] <= now_s + timeout_s:
            arrives_s, data = self._answers.popleft()
            self._clock.advance(max(0.0, arrives_s - now_s))
            self._log.note("answer", data)
            return decode(data)
        if self._dead and not self._answers:
            raise PeerLost("the drafter died")
        self._clock.advance(timeout_s)
        return None

    def close(self) -> None:
        self._dead = True


class ScriptedDriver:
    """A driver that submits everything before the engine starts, and stops it at the end."""

    peer = "driver"

    def __init__(self, submits: Sequence[Submit], log: Log, stop: Callable[[], None]) -> None:
        self.submits = tuple(submits)
        self._unsent = deque(submits)
        self._log, self._stop = log, stop
        self.outcomes = {submit.request: Outcome() for submit in submits}
        self.all_sent, self._all_ended = threading.Event(), threading.Event()
        self.status: Pong | None = None

    def recv(self, timeout_s: float) -> Message | None:
        if self._unsent:
            return self._unsent.popleft()
        self.all_sent.set()
        if self._all_ended.wait(timeout_s):
            self._all_ended.clear()
            return Ping(number=1)
        return None

    def send(self, message: Message) -> None:
        data = encode(message)
        self._log.note("driver", data)
        if isinstance(message, Pong):
            self.status = message
            self._stop()
            return
        record(self.outcomes, message)
        ended = not isinstance(message, Committed)
        if ended and all(o.finished or o.failed for o in self.outcomes.values()):
            self._all_ended.set()

    def close(self) -> None:
        pass


class VirtualEngine:
    """A leader, its target and any number of drafters in virtual time."""

    def __init__(
        self,
        *,
        times: Times | None = None,
        shard: ModelShard | None = None,
        group: Group | None = None,
        num_pages: int = 400,
        max_positions: int = 400,
        max_batch: int = 16,
        prefill_chunk: int = 256,
        max_length: int = 8,
        constraints: Constraints | None = None,
        eos_ids: frozenset[int] = frozenset(),
    ) -> None:
        self.clock = ManualClock()
        self.log = Log(self.clock)
        self.times = times or Times()
        target = shard or PrefixShard(VOCAB, page_size=PAGE)
        self._vocab_size = target.vocab_size
        ledger = SlotLedger(num_pages=num_pages, page_size=PAGE)
        ports = DrafterPorts(
            self.clock, vocab_size=target.vocab_size, wait_budget_s=self.times.wait_budget_s
        )
        self.rounds = RoundRunner(
            LoggingRunner(
                TimedShard(target, self.clock, self.times), self.log, group or SoloGroup()
            ),
            ledger,
            ports,
            DraftLengthController(max_length=max_length),
            self.clock,
        )
        config = EngineConfig(
            vocab_size=target.vocab_size,
            max_positions=max_positions,
            max_batch=max_batch,
            prefill_chunk=prefill_chunk,
            heartbeat_s=HEARTBEAT_S,
            eos_ids=eos_ids,
        )
        self.engine = Engine(
            self.rounds,
            ledger,
            ports,
            config,
            clock=self.clock,
            tokenizer=None,
            constraints=constraints,
        )

    def attach(self, drafter: Drafter, *, fates: Sequence[Fate] = (), joins: bool = False) -> None:
        """Attach a drafter whose first answers meet these fates."""
        link = TimedLink(drafter, self.clock, self.times, self.log, fates)
        self.engine.join(introduction(drafter, "timed", self._vocab_size, joins=joins), link)

    def run(self, submits: Sequence[Submit]) -> ScriptedDriver:
        """Serve requests to their end; returns their driver."""
        driver = ScriptedDriver(submits, self.log, self.engine.stop)
        hello = Hello(role="driver", name="scripted")
        thread = threading.Thread(target=self.engine.join, args=(hello, driver), daemon=True)
        thread.start()
        assert driver.all_sent.wait(30)
        self.engine.run()
        thread.join(30)
        assert not thread.is_alive()
        return driver
