"""From options to a deployment: find the models and refuse what cannot work, before Ray starts."""

import re
from dataclasses import dataclass, replace
from pathlib import Path

from cluster.deploy.deployment_spec import DeploymentSpec
from cluster.options.model_options import ModelOptions
from cluster.placement.placement import PlaceOptions
from cluster.placement.rank_needs import bytes_of_rank, place_of, threads_of
from parallel.decoding.types import DecodeMode
from runtime.drafters.lookup_settings import LookupSettings
from runtime.errors import ConfigError
from runtime.hosts.rank_settings import LeaderSettings, ModelSettings
from runtime.models.checkpoint import resolve_model
from runtime.models.model_facts import ModelFacts, check_device, check_tensor_parallel, read_facts
from runtime.models.tokenizer import Tokenizer
from runtime.rank.group_models import NamedModel
from runtime.rank.memory_check import available_bytes, check_fits
from runtime.rank.virtual_shard import VirtualSpec

AUTO = "auto"
INLINE = "inline:"
LOOKUPS = re.compile(r"\+(ngram|recycle|store=[^+]+)$")
_VIRTUAL_POSITIONS = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedModel:
    """A target that was found and checked, with what the driver itself needs of it."""

    name: str
    facts: ModelFacts | None
    """None for virtual devices."""
    tokenizer: Tokenizer | None
    """None for virtual devices."""
    virtual: VirtualSpec | None
    max_positions: int
    vocab_size: int

    @property
    def directory(self) -> str | None:
        """The checkpoint."""
        return str(self.facts.directory) if self.facts is not None else None


@dataclass(frozen=True, slots=True, kw_only=True)
class DrafterChoice:
    """What `--drafter` named."""

    name: str
    why: str = ""
    """Why it was chosen, where nobody named one."""
    facts: ModelFacts | None = None
    """None for drafters without a checkpoint."""
    layers: tuple[int, ...] | None = None
    ngram: bool = False
    """N-grams from an actor of their own."""
    lookup: LookupSettings | None = None
    """Look-ups in the leader's process."""
    trained: bool = False
    """Whether it is a trained drafter, which shares the target's embedding."""
    lookups: LookupSettings | None = None
    """What a model looks up beside."""
    inline: bool = False
    """Whether its model runs in the leader's process."""

    @property
    def has_model(self) -> bool:
        """Whether it runs a model, real or virtual."""
        return not self.ngram and self.lookup is None

    @property
    def has_ranks(self) -> bool:
        """Whether it runs a model on ranks of its own."""
        return self.has_model and not self.inline

    @property
    def best_mode(self) -> DecodeMode:
        """The mode to take where nobody named one: only a rank of its own has work to hide."""
        return DecodeMode.AUTO if self.has_ranks else DecodeMode.SPECULATIVE


def plan_target(options: ModelOptions) -> PlannedModel:
    """Find the target and check that it can be loaded.

    Raises:
        ConfigError: it cannot; says why and what to do.
    """
    _check_options(options)
    if options.virtual is not None:
        spec = VirtualSpec.parse(options.virtual)
        return PlannedModel(
            name="virtual",
            facts=None,
            tokenizer=None,
            virtual=spec,
            max_positions=_VIRTUAL_POSITIONS,
            vocab_size=spec.vocab_size,
        )
    if options.target is None:
        raise ConfigError("no target: name one with --target, as --target smollm2-135m")
    facts = _find(options.target)
    check_tensor_parallel(facts, options.tp, "--tp")
    return PlannedModel(
        name=options.target,
        facts=facts,
        tokenizer=Tokenizer.load(facts.directory),
        virtual=None,
        max_positions=facts.config.max_positions,
        vocab_size=facts.config.vocab_size,
    )


@dataclass(frozen=True, slots=True)
class LayerParallel:
    """What `layer_parallel` asks for."""

    width: int
    """Layers at a time; 0 is auto."""
    first: int
    """Layers before this one stay one after the other."""


def parse_layer_parallel(text: str) -> LayerParallel | None:
    """Return what `layer_parallel` asks for; None for off.

    Raises:
        ConfigError: it is none of off, auto, N, auto@K and N@K.
    """
    if text == "off":
        return None
    width, at, first = text.partition("@")
    known = width == AUTO or (width.isdecimal() and int(width) >= 1)
    if not known or (at and not first.isdecimal()):
        raise ConfigError(
            f"`layer_parallel` is {text!r}: write off, auto or a number from 1 on, and @K after it "
            "to leave layers before K one after the other, as 4@6"
        )
    return LayerParallel(0 if width == AUTO else int(width), int(first or 0))


def _layer_parallel(
    options: ModelOptions, target: PlannedModel, drafter: DrafterChoice
) -> LayerParallel | None:
    if target.virtual is not None and target.virtual.stack is None:
        return None  # its drafter has no layers
    asked = parse_layer_parallel(options.layer_parallel)
    if asked and not asked.width and (options.num_drafter_ranks == 1 or not drafter.has_ranks):
        return None  # on one rank nothing runs at once
    return asked


def _check_options(options: ModelOptions) -> None:
    parse_layer_parallel(options.layer_parallel)
    PlaceOptions.parse(options.place)
    for name, choice in (("group_backend", options.group_backend), ("link", options.link)):
        if choice == "nccl" and options.device != "cuda":
            raise ConfigError(f"`{name}` is nccl, which needs `device` cuda: take gloo on CPUs")
    if options.ray_address is None:
        check_device(options.device)


def plan_deployment(
    options: ModelOptions,
    target: PlannedModel,
    drafter: DrafterChoice | None,
    *,
    cache_tokens: int,
    stops: bool,
) -> DeploymentSpec:
    """Plan the groups of a run.

    Args:
        options: what the user asked for.
        target: what `plan_target` found.
        drafter: what `plan_drafter` found; None drafts nothing.
        cache_tokens: tokens all sequences in flight need together.
        stops: whether any request has stop strings, which the leader needs the tokenizer for.

    Raises:
        ConfigError: memory does not suffice.
    """
    tokens = options.cache_tokens or cache_tokens
    num_drafters = options.num_drafter_ranks if drafter is not None and drafter.has_ranks else 0
    num_ranks = options.tp + num_drafters
    place = place_of(options)
    settings = ModelSettings(
        role="target",
        directory=target.directory,
        known=_known(target, drafter),
        virtual=target.virtual,
        dtype=options.dtype,
        device=options.device,
        num_threads=options.threads or threads_of(options, place, num_ranks),
        cache_tokens=tokens,
        shares_prefixes=options.prefix_cache,
        group_timeout_s=place.timeout_s,
    )
    drafter_settings = None
    if drafter is not None and drafter.has_model:
        directory = str(drafter.facts.directory) if drafter.facts is not None else None
        by_layers = _layer_parallel(options, target, drafter)
        drafter_settings = replace(
            settings,
            role="drafter",
            directory=directory,
            embedding_directory=target.directory if drafter.trained else None,
            layers=drafter.layers,
            lookups=drafter.lookups,
            layer_parallel=by_layers.width if by_layers else None,
            layer_parallel_from=by_layers.first if by_layers else 0,
        )
    target_bytes = drafter_bytes = 0
    if options.ray_address is None:
        _check_memory(target, drafter, settings)
    else:
        target_bytes = bytes_of_rank(target.facts, settings, options.tp)
        if drafter is not None and drafter_settings is not None:
            needed = bytes_of_rank(drafter.facts, drafter_settings, max(num_drafters, 1))
            if num_drafters:
                drafter_bytes = needed
            else:
                target_bytes += needed  # the leader holds both; all ranks reserve alike
    return DeploymentSpec(
        target=settings,
        tp=options.tp,
        leader=LeaderSettings(
            max_positions=target.max_positions,
            eos_ids=tuple(sorted(target.tokenizer.eos_ids)) if target.tokenizer else (),
            max_batch=options.max_batch,
            draft_wait_s=options.draft_wait_s,
            tokenizer_directory=target.directory if stops else None,
            lookup=drafter.lookup if drafter is not None else None,
            link_port=place.port,
            inline_drafter=None if num_drafters else drafter_settings,
        ),
        drafter=drafter_settings if num_drafters else None,
        num_drafters=num_drafters,
        ngram=drafter is not None and drafter.ngram,
        vocab_size=target.vocab_size,
        group_backend=options.group_backend,
        link=options.link,
        place=place,
        target_bytes=target_bytes,
        drafter_bytes=drafter_bytes,
        num_gpus=1.0 if options.device.startswith("cuda") else 0.0,
    )


def _known(target: PlannedModel, drafter: DrafterChoice | None) -> tuple[NamedModel, ...]:
    """Return the names of models that other nodes can look for; a directory here is not one."""
    known = []
    if target.facts is not None:
        known.append(NamedModel(str(target.facts.directory), target.name))
    if drafter is not None and drafter.facts is not None:
        name = drafter.name.removeprefix(INLINE)
        while (match := LOOKUPS.search(name)) is not None:
            name = name[: match.start()]
        known.append(NamedModel(str(drafter.facts.directory), name))
    return tuple(model for model in known if not Path(model.name).expanduser().is_dir())


def _find(name: str) -> ModelFacts:
    return read_facts(resolve_model(name))


def _check_memory(
    target: PlannedModel, drafter: DrafterChoice | None, settings: ModelSettings
) -> None:
    """Refuse what this machine's memory cannot hold: weights and cache of both models."""
    if settings.device != "cpu":
        return
    weights = cache = 0
    if target.facts is not None:
        weights += target.facts.weight_bytes(settings.dtype)
        cache += target.facts.cache_bytes(settings.dtype, settings.cache_tokens)
    if drafter is not None and drafter.facts is not None:
        layers = drafter.layers
        weights += drafter.facts.weight_bytes(settings.dtype, layers)
        cache += drafter.facts.cache_bytes(settings.dtype, settings.cache_tokens, layers)
    check_fits(weights, cache, available_bytes(), cache_tokens=settings.cache_tokens)
