"""An engine with its drafter in one process: threads, memory links and toy models."""

import threading
from collections.abc import Container, Sequence
from dataclasses import dataclass, field

from parallel.decoding.rng import request_key
from parallel.decoding.sampling import sample
from parallel.decoding.score_row import ScoreRow
from parallel.decoding.types import (
    DecodeMode,
    RngKey,
    SamplingParams,
    TokenLogprobs,
    VerifierKind,
)
from parallel.group import Group, SoloGroup
from parallel.messages import Committed, Failed, Finished, Hello, Message, Submit
from parallel.rounds.controller import DraftLengthController
from runtime.clock import MonotonicClock
from runtime.constraints.compiler import Constraints
from runtime.drafters.drafting import Drafter, introduction, serve_drafts
from runtime.drafters.inline_link import InlineLink
from runtime.drafters.lookup_drafting import LookupDrafter
from runtime.drafters.lookups.lookup_settings import NO_LOOKUPS, LookupSettings
from runtime.drafters.model_drafting import ModelDrafter
from runtime.engine.drafter_ports import DrafterPorts
from runtime.engine.engine import Engine
from runtime.engine.engine_limits import EngineConfig
from runtime.engine.round import RoundRunner
from runtime.links.link import Link
from runtime.links.memory_link import memory_link_pair
from runtime.models.tokenizer import Tokenizer
from runtime.rank.page_ledger import SlotLedger
from runtime.rank.shard import ModelShard, ShardRunner
from runtime.rank.toy_shard import PrefixShard, prefix_logits
from runtime.rank.virtual_shard import VirtualShard, VirtualSpec
from runtime.timeline import SpanRecorder

VOCAB = 48
PAGE = 4


@dataclass
class Outcome:
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    finished: Finished | None = None
    failed: Failed | None = None


class Rig:
    """One leader, any number of drivers, drafters that come and go."""

    def __init__(
        self,
        *,
        num_pages: int = 400,
        wait_budget_s: float = 2.0,
        max_batch: int = 16,
        prefill_chunk: int = 256,
        virtual: VirtualSpec | None = None,
        model: ModelShard | None = None,
        group: Group | None = None,
        adapters: Container[str] = (),
        tokenizer: Tokenizer | None = None,
        constraints: Constraints | None = None,
        eos_ids: frozenset[int] = frozenset(),
    ) -> None:
        clock = MonotonicClock()
        self.target = PrefixShard(VOCAB, page_size=PAGE)
        ledger = SlotLedger(num_pages=num_pages, page_size=PAGE)
        self.ports = DrafterPorts(clock, vocab_size=VOCAB, wait_budget_s=wait_budget_s)
        controller = DraftLengthController(max_length=8)
        shard: ModelShard = model or self.target
        if virtual is not None:
            shard = VirtualShard(virtual, drafter=False, group=SoloGroup())
        runner = ShardRunner(shard, group or SoloGroup())
        self.pulse = runner.pulse
        self.recorder = SpanRecorder(1000)
        """Of the leader and its drafters, since the rig started."""
        rounds = RoundRunner(runner, ledger, self.ports, controller, clock, self.recorder)
        config = EngineConfig(
            vocab_size=VOCAB,
            max_positions=400,
            heartbeat_s=0.05,
            max_batch=max_batch,
            prefill_chunk=prefill_chunk,
            eos_ids=eos_ids,
        )
        self.engine = Engine(
            rounds,
            ledger,
            self.ports,
            config,
            clock=clock,
            tokenizer=tokenizer,
            constraints=constraints,
            adapters=adapters,
        )
        self.errors: list[BaseException] = []
        self._threads = [self._spawn(self.engine.run)]

    def _spawn(self, target: object, *args: object) -> threading.Thread:
        def guarded() -> None:
            try:
                target(*args)  # type: ignore[operator]  # any of the rig's loops
            except BaseException as error:  # a test asserts on it
                self.errors.append(error)

        thread = threading.Thread(target=guarded, daemon=True)
        thread.start()
        return thread

    def attach_model(
        self,
        *,
        noise: float = 0.5,
        num_pages: int = 400,
        lookups: LookupSettings = NO_LOOKUPS,
        grows_trees: bool = False,
        width: int | None = None,
        step_s: tuple[float, ...] = (),
        joins: bool = False,
    ) -> Link:
        """Attach a model drafter; returns its end of the link, to be closed by a test."""
        runner = ShardRunner(PrefixShard(VOCAB, page_size=PAGE, noise=noise), SoloGroup())
        ledger = SlotLedger(num_pages=num_pages, page_size=PAGE)
        drafter = ModelDrafter(
            runner, ledger, lookups=lookups, grows_trees=grows_trees, width=width, step_s=step_s
        )
        return self._attach(drafter, joins=joins)

    def attach_virtual(self, spec: VirtualSpec) -> Link:
        shard = VirtualShard(spec, drafter=True, group=SoloGroup())
        ledger = SlotLedger(num_pages=400, page_size=PAGE)
        return self._attach(ModelDrafter(ShardRunner(shard, SoloGroup()), ledger))

    def attach_ngram(self, *, joins: bool = False) -> Link:
        return self._attach(LookupDrafter(LookupSettings.parse("ngram")), joins=joins)

    def attach_inline(self) -> None:
        """Attach a drafter that is a model in the leader's own thread."""
        runner = ShardRunner(PrefixShard(VOCAB, page_size=PAGE, noise=0.5), SoloGroup())
        drafter = ModelDrafter(runner, SlotLedger(num_pages=400, page_size=PAGE))
        link = InlineLink(drafter, MonotonicClock())
        self.engine.join(introduction(drafter, "inline", VOCAB), link)

    def attach(
        self,
        drafter: Drafter,
        *,
        inline: bool = False,
        vocab_size: int | None = VOCAB,
        max_positions: int | None = None,
    ) -> None:
        """Attach any drafter, on a link of its own or in the leader's thread."""
        hello = introduction(drafter, "toy", vocab_size, max_positions=max_positions)
        if inline:
            self.engine.join(hello, InlineLink(drafter, MonotonicClock()))
            return
        ours, theirs = memory_link_pair("leader", "drafter")
        self.engine.join(hello, theirs)
        self._serve(ours, drafter)

    def attach_lookup(self) -> Link:
        """Attach a look-up drafter with n-grams and recycling, which grows trees."""
        return self._attach(LookupDrafter(LookupSettings()))

    def attach_silent(self) -> Link:
        """Attach a drafter that never answers."""
        ours, theirs = memory_link_pair("leader", "drafter")
        self.engine.join(Hello(role="drafter", name="silent", vocab_size=VOCAB), theirs)
        return ours

    def attach_link(self, leader_end: Link, drafter_end: Link, *, noise: float = 0.5) -> None:
        """Attach a model drafter over given link ends."""
        runner = ShardRunner(PrefixShard(VOCAB, page_size=PAGE, noise=noise), SoloGroup())
        drafter = ModelDrafter(runner, SlotLedger(num_pages=400, page_size=PAGE))
        self.engine.join(Hello(role="drafter", name="toy", vocab_size=VOCAB), leader_end)
        self._serve(drafter_end, drafter)

    def _attach(self, drafter: Drafter, *, joins: bool = False) -> Link:
        ours, theirs = memory_link_pair("leader", "drafter")
        self.engine.join(introduction(drafter, "toy", VOCAB, joins=joins), theirs)
        self._serve(ours, drafter)
        return ours

    def _serve(self, link: Link, drafter: Drafter) -> None:
        def loop() -> None:
            clock, recorder = MonotonicClock(), self.recorder
            try:
                serve_drafts(link, drafter, clock, heartbeat_s=0.05, recorder=recorder)
            finally:
                link.close()

        self._threads.append(self._spawn(loop))

    def driver(self) -> Link:
        ours, theirs = memory_link_pair("leader", "driver")
        self._spawn(self.engine.join, Hello(role="driver", name="test"), theirs)
        return ours

    def run(self, submits: Sequence[Submit]) -> dict[int, Outcome]:
        link = self.driver()
        for submit in submits:
            link.send(submit)
        outcomes = {submit.request: Outcome() for submit in submits}
        while any(o.finished is None and o.failed is None for o in outcomes.values()):
            message = link.recv(60.0)
            assert message is not None, f"no message for 60 s; errors: {self.errors}"
            record(outcomes, message)
        link.close()
        return outcomes

    def close(self) -> None:
        self.engine.stop()
        for thread in self._threads:
            thread.join(timeout=60.0)
            assert not thread.is_alive(), "a loop did not end"


def record(outcomes: dict[int, Outcome], message: Message) -> None:
    match message:
        case Committed(request=request, token_ids=token_ids, logprobs=logprobs):
            assert outcomes[request].finished is None, "tokens after the end"
            outcomes[request].token_ids.extend(token_ids)
            outcomes[request].logprobs.extend(logprobs)
        case Finished(request=request):
            assert outcomes[request].finished is None, "two ends"
            outcomes[request].finished = message
        case Failed(request=request) if request is not None:
            outcomes[request].failed = message
        case _:
            raise AssertionError(f"unexpected {message}")


def make_submit(
    request: int = 0,
    *,
    prompt: Sequence[int] = (1, 2, 3),
    mode: str = "pearl",
    verifier: str = "match",
    max_tokens: int = 24,
    draft_length: int | None = 4,
    sampling: SamplingParams | None = None,
) -> Submit:
    return Submit(
        request=request,
        prompt_ids=tuple(prompt),
        sampling=sampling or SamplingParams(),
        mode=DecodeMode(mode),
        verifier=VerifierKind(verifier),
        max_tokens=max_tokens,
        draft_length=draft_length,
    )


def expected_tokens(submit: Submit) -> list[int]:
    """The target alone: one token after the other, straight from the toy's distribution."""
    tokens = list(submit.prompt_ids)
    key = RngKey(seed=submit.sampling.seed, request=request_key(submit.prompt_ids, sample_index=0))
    for position in range(submit.max_tokens):
        row = ScoreRow(prefix_logits(tokens, VOCAB), None)
        tokens.append(sample(row, submit.sampling, key, position, tokens))
    return tokens[len(submit.prompt_ids) :]
