"""Rank 0 of the target: the engine, and the server that drivers and drafters connect to."""

import logging
import threading
from functools import partial

from parallel.rounds.controller import DraftLengthController
from runtime.clock import MonotonicClock
from runtime.constraints.compiler import ConstraintCompiler
from runtime.constraints.model_tokens import model_tokens
from runtime.constraints.monitors import Monitors
from runtime.drafters.drafting import received_introduction
from runtime.drafters.inline_link import InlineLink
from runtime.engine.drafter_ports import DrafterPorts
from runtime.engine.engine import Engine
from runtime.engine.round import RoundRunner
from runtime.errors import ConfigError, PeerError, ProtocolError
from runtime.hosts.drafter_spec import InlineDrafterSpec, InlineModelDrafterSpec
from runtime.hosts.drafter_thread import start_drafter_thread
from runtime.hosts.inline_drafting import build_inline_drafter
from runtime.hosts.model_host import ModelHost
from runtime.hosts.rank_settings import LeaderSettings
from runtime.hosts.torch_threads import use_one_thread, use_threads
from runtime.links.grpc_link import GrpcLinkServer
from runtime.links.link import Link
from runtime.links.torch_link import (
    TorchLinkOffer,
    TorchLinkSpec,
    join_torch_link,
    offer_torch_link,
)
from runtime.models.tokenizer import Tokenizer

_LOG = logging.getLogger("paceline.host")
HEARTBEAT_S = 2.0  # well below every group timeout
CONNECT_TIMEOUT_S = 30.0


class LeaderHost:
    """Rank 0 of the target, before and while it serves."""

    def __init__(self, model: ModelHost, settings: LeaderSettings, num_threads: int) -> None:
        self._model = model
        self._settings = settings
        self._num_threads = num_threads
        self._engine: Engine | None = None
        self._constraints: ConstraintCompiler | None = None
        self._server: GrpcLinkServer | None = None
        self._ended = threading.Event()

    def listen(self, drafter: InlineDrafterSpec, host: str, token: str) -> str:
        """Start the link server and return its address; `serve` answers what arrives.

        Args:
            drafter: the drafter in this process; if it fails to start, requests run without it.
            host: address to listen on.
            token: the secret that peers of this deployment share.

        Raises:
            ConfigError: the drafter's checkpoint, or a store, cannot be used.
        """
        self._engine = self._build_engine()
        try:
            self._join_inline(drafter)
        except ConfigError:
            raise
        except Exception:  # the target serves although its drafter failed
            _LOG.exception("the inline drafter failed to start: requests run without drafts")
        self._server = GrpcLinkServer(
            host, self._settings.link_port, token=token, on_link=self._engine.join
        )
        return self._server.address

    def draft_inline(self, drafter: InlineDrafterSpec) -> None:
        """Replace the drafter in the leader's process; requests in flight continue with it.

        Raises:
            ConfigError: its checkpoint cannot be used; the old drafter stays.
        """
        use_one_thread()
        if not self._join_inline(drafter):
            self.engine.leave()

    def leave(self, drafter: str) -> None:
        """Detach a drafter, by its name."""
        self.engine.leave(drafter)

    def offer_link(self, backend: str, host: str) -> TorchLinkSpec:
        """Wait for one drafter on a torch.distributed link; return where it is to join."""
        offer = offer_torch_link(host, backend=backend, timeout_s=CONNECT_TIMEOUT_S)
        threading.Thread(target=self._await_link, args=(offer,), daemon=True).start()
        return offer.spec

    def await_drafter(self, num_attached: int, timeout_s: float) -> int:
        """Wait until more than `num_attached` drafters have attached so far; return how many."""
        return self.engine.await_drafter(num_attached, timeout_s)

    def serve(self) -> None:
        """Run the engine until `stop`; blocks.

        Raises:
            PacelineError: a target rank failed.
        """
        assert self._server is not None, "listen() comes first"
        use_threads(self._num_threads)
        try:
            self.engine.run()
        finally:
            self._server.close()
            self._model.close()
            self._ended.set()

    def stop(self, timeout_s: float) -> None:
        """End `serve` after its round; waits at most `timeout_s`."""
        if self._engine is not None:
            self._engine.stop()
            self._ended.wait(timeout_s)

    @property
    def engine(self) -> Engine:
        """The engine that `listen` made."""
        assert self._engine is not None, "listen() comes first"
        return self._engine

    def _build_engine(self) -> Engine:
        settings, clock, runner = self._settings, MonotonicClock(), self._model.runner
        ports = DrafterPorts(
            clock, vocab_size=runner.vocab_size, wait_budget_s=settings.draft_wait_s
        )
        ledger = self._model.ledger()
        controller = DraftLengthController(max_length=settings.max_draft_length)
        tokenizer = None
        if settings.tokenizer_directory is not None:
            tokenizer = Tokenizer.load(self._model.find(settings.tokenizer_directory))
            self._constraints = ConstraintCompiler(
                partial(
                    model_tokens,
                    tokenizer,
                    vocab_size=runner.vocab_size,
                    end_ids=settings.limits.eos_ids,
                ),
                Monitors(settings.monitors, tokenizer, runner.vocab_size),
            )
        return Engine(
            RoundRunner(runner, ledger, ports, controller, clock, self._model.recorder),
            ledger,
            ports,
            settings.limits,
            clock=clock,
            tokenizer=tokenizer,
            constraints=self._constraints,
            adapters=self._model.adapters,
        )

    def _join_inline(self, spec: InlineDrafterSpec) -> bool:
        """Attach the drafter in the leader's process; return False if there is none.

        Raises:
            ConfigError: its checkpoint or store cannot be used.
        """
        inline = build_inline_drafter(spec, self._constraints)
        if inline is None:
            return False
        recorder = self._model.recorder
        link: Link
        match spec:
            case InlineModelDrafterSpec(model, has_thread=True):
                link = start_drafter_thread(
                    inline.drafter,
                    inline.hello,
                    device=model.device,
                    num_threads=self._num_threads,
                    recorder=recorder,
                )
            case _:
                link = InlineLink(inline.drafter, MonotonicClock(), recorder)
        self.engine.join(inline.hello, link)
        return True

    def _await_link(self, offer: TorchLinkOffer) -> None:
        try:
            link = join_torch_link(offer.spec, 0, name="the target's leader")
            hello = received_introduction(link, CONNECT_TIMEOUT_S)
        except (PeerError, ProtocolError) as error:
            _LOG.warning("no drafter joined: %s", error)
            return
        self.engine.join(hello, link)
