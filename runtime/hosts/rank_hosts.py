"""The process of one model rank: joins its group, loads its shard, then leads or follows."""

import logging
import os
import sys
import threading
from pathlib import Path

import torch

from parallel.decoding.controller import DraftLengthController
from parallel.group import Group, SoloGroup
from parallel.messages import Hello
from parallel.model.cache import PagedCache
from runtime.clock import MonotonicClock
from runtime.drafters.draft_checkpoint import load_drafter
from runtime.drafters.drafting import Drafter, introduction, received_introduction, serve_drafts
from runtime.drafters.inline_link import InlineLink
from runtime.drafters.lookup_drafting import LookupDrafter
from runtime.drafters.lookup_settings import NO_LOOKUPS, LookupSettings
from runtime.drafters.model_drafting import ModelDrafter
from runtime.engine.drafter_ports import DrafterPorts
from runtime.engine.engine import Engine
from runtime.engine.engine_limits import EngineConfig
from runtime.engine.round import RoundRunner
from runtime.errors import ConfigError, PeerError, ProtocolError
from runtime.groups.rendezvous import GroupOffer, GroupSpec, join_group, offer_group
from runtime.heartbeat import ENDED, IDLE, Pulse, Watchdog
from runtime.hosts.rank_settings import DrafterSlot, LeaderAddress, LeaderSettings, ModelSettings
from runtime.links.grpc_link import GrpcLinkServer, connect_grpc
from runtime.links.link import Link
from runtime.links.torch_link import (
    TorchLinkOffer,
    TorchLinkSpec,
    join_torch_link,
    offer_torch_link,
)
from runtime.models.tokenizer import Tokenizer
from runtime.models.weights import load_decoder
from runtime.rank.group_models import on_this_node
from runtime.rank.page_ledger import SlotLedger
from runtime.rank.shard import DecoderShard, ShardRunner
from runtime.rank.stack_times import predict_steps
from runtime.rank.virtual_shard import VirtualShard
from runtime.timeline import SpanRecorder

_LOG = logging.getLogger("paceline.host")
_HEARTBEAT_S = 2.0  # well below every group timeout
_CONNECT_TIMEOUT_S = 30.0


class ModelHost:
    """A rank of a model group, before and while it serves."""

    def __init__(self, settings: ModelSettings, rank: int) -> None:
        _use_huge_pages()
        self._settings = settings
        self._rank = rank
        self._offer: GroupOffer | None = None
        self._group: Group | None = None
        self._runner: ShardRunner | None = None
        self._step_s: tuple[float, ...] = ()
        self.recorder = SpanRecorder(settings.num_spans) if settings.num_spans else None
        """Where rank 0 keeps when it worked, if that is wanted."""
        self.pulse = Pulse()
        """What this rank does."""
        self._watchdog = Watchdog(self.pulse, limit_s=settings.step_limit_s, errors=sys.stderr)

    def offer(self, backend: str, size: int, host: str) -> GroupSpec:
        """Open this group's meeting point (rank 0)."""
        self._offer = offer_group(
            self._settings.role,
            size,
            backend=backend,
            timeout_s=self._settings.group_timeout_s,
            host=host,
        )
        return self._offer.spec

    def open(self, spec: GroupSpec) -> None:
        """Join the group and load this rank's part of the model.

        Raises:
            PeerError: a rank did not join in time.
            ConfigError: the checkpoint cannot be used.
        """
        torch.set_num_threads(1)  # see _serve_threads: the pool belongs to the thread that serves
        joined = self._offer.join() if self._offer is not None else join_group(spec, self._rank)
        self._group = joined
        shard = _build_shard(self._settings, self._group)
        if self._settings.layer_parallel is not None:
            _serve_threads(self._settings.num_threads)
            self._step_s = predict_steps(shard, self._group)
            torch.set_num_threads(1)
        self._runner = ShardRunner(shard, self._group, self.pulse)
        self.pulse.at(IDLE)
        self._watchdog.start()

    def follow(self) -> None:
        """Carry out rank 0's plans until it ends; blocks (all ranks but 0)."""
        _serve_threads(self._settings.num_threads)
        try:
            self.runner.follow()
        finally:
            self.close()

    def close(self) -> None:
        """Leave the group."""
        self.pulse.at(ENDED)
        self._watchdog.close()
        if self._group is not None:
            self._group.close()

    @property
    def runner(self) -> ShardRunner:
        """The opened shard."""
        assert self._runner is not None, "open() comes first"
        return self._runner

    def find(self, directory: str) -> Path:
        """Return where this node has a model's directory."""
        return on_this_node(directory, self._settings.known)

    def ledger(self) -> SlotLedger:
        """Return the account of the opened cache."""
        return _ledger(self._settings)

    def drafter(self) -> ModelDrafter:
        """Return the drafter that the opened model makes (rank 0)."""
        return _model_drafter(self.runner, self._settings, self._step_s)


class LeaderHost:
    """Rank 0 of the target: the engine and the server its peers connect to."""

    def __init__(self, model: ModelHost, settings: LeaderSettings, num_threads: int) -> None:
        self._model = model
        self._settings = settings
        self._num_threads = num_threads
        self._engine: Engine | None = None
        self._server: GrpcLinkServer | None = None
        self._ended = threading.Event()

    def listen(self, host: str, token: str) -> str:
        """Start the link server and return its address; `serve` answers what comes in."""
        settings, clock = self._settings, MonotonicClock()
        ports = DrafterPorts(
            clock,
            vocab_size=self._model.runner.vocab_size,
            wait_budget_s=settings.draft_wait_s,
        )
        ledger = self._model.ledger()
        controller = DraftLengthController(max_length=settings.max_draft_length)
        tokenizer = None
        if settings.tokenizer_directory is not None:
            directory = self._model.find(settings.tokenizer_directory)
            tokenizer = Tokenizer.load(directory)
        self._engine = Engine(
            RoundRunner(self._model.runner, ledger, ports, controller, clock, self._model.recorder),
            ledger,
            ports,
            EngineConfig(
                vocab_size=self._model.runner.vocab_size,
                max_positions=settings.max_positions,
                max_batch=settings.max_batch,
                prefill_chunk=settings.prefill_chunk,
                eos_ids=frozenset(settings.eos_ids),
                heartbeat_s=_HEARTBEAT_S,
            ),
            clock=clock,
            tokenizer=tokenizer,
        )
        try:
            self._join_inline(settings)
        except ConfigError:
            raise
        except Exception:  # a drafter's own failure is no reason to go without a target
            _LOG.exception("the inline drafter failed to start: requests run without drafts")
        self._server = GrpcLinkServer(
            host, settings.link_port, token=token, on_link=self._engine.join
        )
        return self._server.address

    def draft_inline(self, settings: LeaderSettings) -> None:
        """Let the drafter in the leader's thread be as `settings` says; none ends drafting.

        Requests in flight go on with the new one.

        Raises:
            ConfigError: its checkpoint cannot be used; the old drafter stays.
        """
        assert self._engine is not None, "listen() comes first"
        torch.set_num_threads(1)  # as in ModelHost.open
        if not self._join_inline(settings):
            self._engine.leave()

    def _join_inline(self, settings: LeaderSettings) -> bool:
        """Attach the drafter that works in the leader's own thread; False if there is to be none.

        Raises:
            ConfigError: its checkpoint or store cannot be used.
        """
        assert self._engine is not None, "listen() comes first"
        made = _inline_drafter(settings)
        if made is None:
            return False
        drafter, hello = made
        self._engine.join(hello, InlineLink(drafter, MonotonicClock(), self._model.recorder))
        return True

    def leave(self, drafter: str) -> None:
        """Let a drafter go, by its name."""
        assert self._engine is not None, "listen() comes first"
        self._engine.leave(drafter)

    def offer_link(self, backend: str, host: str) -> TorchLinkSpec:
        """Wait for one drafter on a torch.distributed link; returns where it is to join."""
        offer = offer_torch_link(host, backend=backend, timeout_s=_CONNECT_TIMEOUT_S)
        threading.Thread(target=self._await_drafter, args=(offer,), daemon=True).start()
        return offer.spec

    def await_drafter(self, num_met: int, timeout_s: float) -> int:
        """Wait until more than `num_met` drafters have attached so far; return how many have."""
        assert self._engine is not None, "listen() comes first"
        return self._engine.await_drafter(num_met, timeout_s)

    def _await_drafter(self, offer: TorchLinkOffer) -> None:
        assert self._engine is not None, "listen() comes first"
        try:
            link = join_torch_link(offer.spec, 0, name="the target's leader")
            hello = received_introduction(link, _CONNECT_TIMEOUT_S)
        except (PeerError, ProtocolError) as error:
            _LOG.warning("no drafter joined: %s", error)
            return
        self._engine.join(hello, link)

    def serve(self) -> None:
        """Run the engine until `stop`; blocks.

        Raises:
            PacelineError: a target rank failed.
        """
        assert self._engine is not None, "listen() comes first"
        assert self._server is not None
        _serve_threads(self._num_threads)
        try:
            self._engine.run()
        finally:
            self._server.close()
            self._model.close()
            self._ended.set()

    def stop(self, timeout_s: float) -> None:
        """End `serve` after its round; waits at most `timeout_s`."""
        if self._engine is not None:
            self._engine.stop()
            self._ended.wait(timeout_s)


def serve_drafter(
    model: ModelHost | None, slot: DrafterSlot, *, vocab_size: int, num_threads: int, pulse: Pulse
) -> None:
    """Connect a drafter to its leader and answer it until it ends; blocks.

    Args:
        model: rank 0 of the drafter group; None drafts n-grams from the history.
        slot: its leader's link server, or the torch.distributed link it waits on.
        vocab_size: tokens the drafter knows.
        num_threads: threads of this process's matrix products.
        pulse: told what it does.

    Raises:
        PeerError: the leader cannot be reached or a rank of the drafter group failed.
    """
    _serve_threads(num_threads)
    drafter: Drafter = LookupDrafter(LookupSettings.parse("ngram"))
    max_positions = None
    if model is not None:
        drafter = model.drafter()
        max_positions = model.runner.max_positions or None
    hello = introduction(
        drafter, slot.name, vocab_size, max_positions=max_positions, joins=slot.joins
    )
    link = _connect(slot.leader, hello)
    try:
        recorder = model.recorder if model is not None else None
        clock = MonotonicClock()
        serve_drafts(link, drafter, clock, heartbeat_s=_HEARTBEAT_S, pulse=pulse, recorder=recorder)
    finally:
        pulse.at(ENDED)
        link.close()
        if model is not None:
            model.close()


def _use_huge_pages() -> None:
    """Let torch ask the kernel for huge pages for every buffer of 2 MiB and more.

    torch reads this at the process's first allocation. A step reads all weights once: with pages of
    4 KiB, looking them up took a tenth of its time (docs/measurements.md).
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def _serve_threads(num_threads: int) -> None:
    """Set the threads of this thread's matrix products.

    Only the thread that serves gets more than one: OpenMP keeps a pool for each thread that ever
    used one, and with more threads than cores in all its pools it stops spinning between products.
    """
    torch.set_num_threads(num_threads)


def _connect(leader: LeaderAddress | TorchLinkSpec, hello: Hello) -> Link:
    if isinstance(leader, TorchLinkSpec):
        link = join_torch_link(leader, 1, name=hello.name)
        link.send(hello)  # as gRPC's server is told before it hands a link on
        return link
    return connect_grpc(
        leader.address, token=leader.token, hello=hello, timeout_s=_CONNECT_TIMEOUT_S
    )


def _inline_drafter(settings: LeaderSettings) -> tuple[Drafter, Hello] | None:
    """Return the drafter that works in the leader's own thread, and what it says of itself."""
    name = "inline drafter"
    if settings.inline_drafter is not None:
        group = SoloGroup()
        runner = ShardRunner(_build_shard(settings.inline_drafter, group), group)
        model = _model_drafter(runner, settings.inline_drafter)
        limit = runner.max_positions or None
        return model, introduction(model, name, runner.vocab_size, max_positions=limit)
    if settings.lookup is not None:
        lookup = LookupDrafter(settings.lookup)
        return lookup, introduction(lookup, name)
    return None


def _model_drafter(
    runner: ShardRunner, settings: ModelSettings, step_s: tuple[float, ...] = ()
) -> ModelDrafter:
    # A virtual drafter's chains follow the formulas' process; trees would not.
    return ModelDrafter(
        runner,
        _ledger(settings),
        lookups=settings.lookups or NO_LOOKUPS,
        grows_trees=settings.virtual is None,
        width=settings.layer_parallel or None,
        step_s=step_s,
        calibrates=settings.calibrates,
    )


def _ledger(settings: ModelSettings) -> SlotLedger:
    return SlotLedger(
        num_pages=settings.num_pages,
        page_size=settings.page_size,
        # A virtual shard must read each prompt's first token.
        shares=settings.shares_prefixes and settings.virtual is None,
    )


def _build_shard(settings: ModelSettings, group: Group) -> DecoderShard | VirtualShard:
    if settings.virtual is not None:
        drafter = settings.role == "drafter"
        first = settings.layer_parallel_from
        return VirtualShard(
            settings.virtual, drafter=drafter, group=group, layer_parallel_from=first
        )
    assert settings.directory is not None
    directory = on_this_node(settings.directory, settings.known)
    device = torch.device(settings.device)
    dtype: torch.dtype = getattr(torch, settings.dtype)
    head_token_ids = None
    by_layers = None if settings.layer_parallel is None else settings.layer_parallel_from
    if settings.embedding_directory is not None:
        target = on_this_node(settings.embedding_directory, settings.known)
        decoder, head_token_ids = load_drafter(
            directory, target, group, dtype=dtype, device=device, layer_parallel_from=by_layers
        )
    else:
        decoder = load_decoder(
            directory,
            group,
            dtype=dtype,
            device=device,
            layers=settings.layers,
            layer_parallel_from=by_layers,
        )
    cache = PagedCache(
        num_layers=decoder.stack.num_cached_layers,
        num_kv_heads=decoder.stack.heads.num_kv,
        head_dim=decoder.config.head_dim,
        num_pages=settings.num_pages,
        page_size=settings.page_size,
        dtype=dtype,
        device=device,
    )
    return DecoderShard(decoder, cache, head_token_ids)
