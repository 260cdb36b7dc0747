"""The process of one model rank: joins its group, loads its shard, then leads or follows."""

import sys
from functools import partial
from pathlib import Path

from parallel.group import Group
from parallel.model.low_rank import Adapter
from runtime.constraints.compiler import ConstraintCompiler
from runtime.constraints.model_tokens import ModelTokens, model_tokens
from runtime.drafters.model_drafting import ModelDrafter
from runtime.errors import ConfigError
from runtime.groups.rendezvous import GroupOffer, GroupSpec, join_group, offer_group
from runtime.heartbeat import ENDED, IDLE, Pulse, Watchdog
from runtime.hosts.model_building import build_drafter, build_ledger, build_shard
from runtime.hosts.rank_settings import ConstraintSettings, ModelSettings
from runtime.hosts.torch_threads import use_huge_pages, use_one_thread, use_threads
from runtime.models.tokenizer import Tokenizer
from runtime.rank.group_models import on_this_node
from runtime.rank.page_ledger import SlotLedger
from runtime.rank.shard import DecoderShard, ShardRunner
from runtime.rank.stack_times import predict_steps
from runtime.rank.virtual_shard import VirtualShard
from runtime.timeline import SpanRecorder


class ModelHost:
    """A rank of a model group, before and while it serves."""

    def __init__(self, settings: ModelSettings, rank: int) -> None:
        use_huge_pages()
        self._settings = settings
        self._rank = rank
        self._offer: GroupOffer | None = None
        self._group: Group | None = None
        self._runner: ShardRunner | None = None
        self._shard: DecoderShard | VirtualShard | None = None
        self.adapters: set[str] = set()
        """The names of the adapters that this rank holds."""
        self._step_s: tuple[float, ...] = ()
        self._constraints: ConstraintCompiler | None = None
        self.recorder = SpanRecorder(settings.num_spans) if settings.num_spans else None
        """Where rank 0 records when it worked, if a timeline is requested."""
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
        use_one_thread()
        group = self._offer.join() if self._offer is not None else join_group(spec, self._rank)
        self._group = group
        shard = self._shard = build_shard(self._settings, group)
        if self._settings.layer_parallel is not None:
            use_threads(self._settings.num_threads)
            self._step_s = predict_steps(shard, group)
            use_one_thread()
        self._runner = ShardRunner(shard, group, self.pulse)
        self.pulse.at(IDLE)
        self._watchdog.start()

    def follow(self) -> None:
        """Carry out rank 0's plans until it ends; blocks (all ranks but 0)."""
        use_threads(self._settings.num_threads)
        try:
            self.runner.follow()
        finally:
            self.close()

    def close(self) -> None:
        """Leave the group."""
        self.pulse.at(ENDED)
        self._watchdog.close()
        if self._constraints is not None:
            self._constraints.close()
        if self._group is not None:
            self._group.close()

    @property
    def runner(self) -> ShardRunner:
        """The opened shard."""
        assert self._runner is not None, "open() comes first"
        return self._runner

    def add_adapter(self, adapter: Adapter) -> None:
        """Hold an adapter, for requests that name it; may be called while a round runs.

        Raises:
            ConfigError: it does not fit the model, or there is no model.
        """
        if not isinstance(self._shard, DecoderShard):
            raise ConfigError("a virtual target has no weights that an adapter could add to")
        try:
            self._shard.add_adapter(adapter)
        except ValueError as error:
            raise ConfigError(f"the adapter {adapter.name} does not fit: {error}") from error
        self.adapters.add(adapter.name)

    def remove_adapter(self, name: str) -> None:
        """Drop an adapter that no request uses or will use."""
        self.adapters.discard(name)
        if isinstance(self._shard, DecoderShard):
            self._shard.remove_adapter(name)

    def find(self, directory: str) -> Path:
        """Return where this node has a model's directory."""
        return on_this_node(directory, self._settings.known)

    def ledger(self) -> SlotLedger:
        """Return the account of the opened cache."""
        return build_ledger(self._settings)

    def drafter(self) -> ModelDrafter:
        """Return the drafter that the opened model makes (rank 0)."""
        wanted = self._settings.constraints
        if wanted is not None:
            self._constraints = ConstraintCompiler(partial(self._read_tokens, wanted))
        return build_drafter(
            self.runner, self._settings, self._step_s, constraints=self._constraints
        )

    def _read_tokens(self, wanted: ConstraintSettings) -> ModelTokens:
        tokenizer = Tokenizer.load(self.find(wanted.tokenizer_directory))
        return model_tokens(tokenizer, vocab_size=wanted.vocab_size, end_ids=wanted.eos_ids)
