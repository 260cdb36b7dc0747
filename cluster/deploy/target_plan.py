"""Finds the target and checks that it can run here, before Ray starts."""

from dataclasses import dataclass
from pathlib import Path

from cluster.deploy.layer_parallel_text import parse_layer_parallel
from cluster.options.model_options import ModelOptions
from cluster.placement.rank_needs import place_of
from runtime.errors import ConfigError
from runtime.hosts.rank_settings import ModelSettings
from runtime.models.checkpoint import resolve_model
from runtime.models.model_facts import ModelFacts, check_device, check_tensor_parallel, read_facts
from runtime.models.tokenizer import Tokenizer
from runtime.rank.group_models import NamedModel
from runtime.rank.virtual_shard import VirtualSpec

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


def plan_target(options: ModelOptions) -> PlannedModel:
    """Find the target and check that it can be loaded.

    Raises:
        ConfigError: it cannot; names the reason and the remedy.
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
        raise ConfigError("no target: name one as `target`, for example smollm2-135m")
    facts = read_facts(resolve_model(options.target))
    check_tensor_parallel(facts, options.tp, "`tp`")
    return PlannedModel(
        name=options.target,
        facts=facts,
        tokenizer=Tokenizer.load(facts.directory),
        virtual=None,
        max_positions=facts.config.max_positions,
        vocab_size=facts.config.vocab_size,
    )


def target_settings(options: ModelOptions, target: PlannedModel) -> ModelSettings:
    """Return how the target's ranks run it; threads and cache are planned with the deployment."""
    return ModelSettings(
        role="target",
        directory=target.directory,
        known=known_as(target.facts, target.name),
        virtual=target.virtual,
        weights=options.weights,
        device=options.device,
        shares_prefixes=options.prefix_cache,
        group_timeout_s=place_of(options).timeout_s,
    )


def known_as(facts: ModelFacts | None, name: str) -> tuple[NamedModel, ...]:
    """Return the name that other nodes can look for; none where it is a directory of this one."""
    if facts is None or Path(name).expanduser().is_dir():
        return ()
    return (NamedModel(str(facts.directory), name),)


def _check_options(options: ModelOptions) -> None:
    parse_layer_parallel(options.layer_parallel)
    for name, choice in (("group_backend", options.group_backend), ("link", options.link)):
        devices = {"device": options.device, "drafter_device": options.device_of_drafters}
        for field, device in devices.items():
            if choice == "nccl" and device != "cuda":
                raise ConfigError(
                    f"`{name}` is nccl, which needs `{field}=cuda`: take gloo on CPUs"
                )
    if options.drafters > 1 and options.link != "grpc":
        raise ConfigError(
            f"`drafters` is {options.drafters}, and `link` {options.link} attaches one drafter: "
            "take grpc"
        )
    if options.ray_address is None:
        check_device(options.device)
        check_device(options.device_of_drafters, "drafter_device")
