"""Plans the drafter of a run: the named one, or the best one known for the target."""

from dataclasses import dataclass, replace

from cluster.deploy.drafter_capacity import DrafterCapacity
from cluster.deploy.drafter_text import (
    AUTO,
    AutoDrafterText,
    InlineDrafterText,
    LookupDrafterText,
    ModelDrafterText,
    NgramDrafterText,
    parse_drafter,
)
from cluster.deploy.layer_parallel_text import parse_layer_parallel
from cluster.deploy.target_plan import PlannedModel, known_as, target_settings
from cluster.options.model_options import ModelOptions
from parallel.decoding.types import DecodeMode
from runtime.drafters.draft_checkpoint import check_drafter, drafter_facts, is_drafter
from runtime.drafters.lookups.lookup_settings import LookupSettings
from runtime.drafters.shipped import shipped_drafter
from runtime.errors import ConfigError
from runtime.hosts.drafter_spec import (
    DrafterSpec,
    InlineModelDrafterSpec,
    LookupDrafterSpec,
    ModelDrafterSpec,
    NgramDrafterSpec,
    NoDrafterSpec,
)
from runtime.hosts.rank_settings import ConstraintSettings, LayerParallel, ModelSettings
from runtime.models.checkpoint import parse_layers, resolve_model
from runtime.models.model_facts import ModelFacts, check_tensor_parallel, read_facts
from runtime.models.tokenizer import Tokenizer, check_same_vocabulary

_BEST_LOOKUPS = LookupSettings.parse("ngram+recycle")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedDrafter:
    """A drafter that was found and checked."""

    name: str
    """As the user named it; "" drafts nothing."""
    spec: DrafterSpec
    facts: ModelFacts | None = None
    """Of its checkpoint, if it has one."""
    why: str = ""
    """Why it was chosen, where the user named none."""

    @property
    def has_model_ranks(self) -> bool:
        """Whether it runs a model on its own ranks."""
        return isinstance(self.spec, ModelDrafterSpec)

    @property
    def best_mode(self) -> DecodeMode:
        """The default mode: only a model that drafts during forwards has work to overlap."""
        match self.spec:
            case ModelDrafterSpec() | InlineModelDrafterSpec(has_thread=True):
                return DecodeMode.AUTO
            case _:
                return DecodeMode.SPECULATIVE


NOTHING_DRAFTS = PlannedDrafter(name="", spec=NoDrafterSpec())


def plan_drafter(
    options: ModelOptions, target: PlannedModel, capacity: DrafterCapacity
) -> PlannedDrafter:
    """Find the drafter, and check that it uses the target's tokens and can run as requested.

    Raises:
        ConfigError: it cannot be loaded, its vocabulary differs, or own ranks were
            requested and it has none.
    """
    drafter = find_drafter(options, target, capacity)
    requested = capacity.requested_by(options)
    if requested and not drafter.spec.num_ranks:
        raise ConfigError(
            f"{requested} asks for a drafter on ranks of its own, and {drafter.name} drafts in the "
            f"target's process: name a model or ngram as `drafter`, or leave {requested} out"
        )
    if isinstance(drafter.spec, NgramDrafterSpec) and options.num_drafter_ranks > 1:
        raise ConfigError(f"`drafter_tp` is {options.drafter_tp}: ngram works in one actor, take 1")
    return drafter


def find_drafter(
    options: ModelOptions, target: PlannedModel, capacity: DrafterCapacity
) -> PlannedDrafter:
    """Find the drafter and check that it uses the target's tokens, wherever it runs.

    Raises:
        ConfigError: it cannot be loaded, or its vocabulary differs.
    """
    name = options.drafter or AUTO
    if target.virtual is not None:
        return _virtual_drafter(options, target, name)
    assert target.tokenizer is not None
    match parse_drafter(name):
        case AutoDrafterText():
            return _best_known(options, target, capacity)
        case NgramDrafterText():
            return PlannedDrafter(name=name, spec=NgramDrafterSpec(target.vocab_size))
        case LookupDrafterText(lookups):
            checked = lookups.checked(target.tokenizer.digest)
            return PlannedDrafter(name=name, spec=LookupDrafterSpec(checked))
        case InlineDrafterText(model, has_thread):
            alone = replace(options, drafter_tp=None)
            facts, settings = _find_model(alone, target, model)
            inline = InlineModelDrafterSpec(settings, has_thread)
            return PlannedDrafter(name=name, spec=inline, facts=facts)
        case ModelDrafterText() as model:
            facts, settings = _find_model(options, target, model)
            spec = ModelDrafterSpec(settings, options.num_drafter_ranks)
            return PlannedDrafter(name=name, spec=spec, facts=facts)


def _virtual_drafter(options: ModelOptions, target: PlannedModel, name: str) -> PlannedDrafter:
    if name == "ngram":
        return PlannedDrafter(name=name, spec=NgramDrafterSpec(target.vocab_size))
    assert target.virtual is not None
    has_layers = target.virtual.stack is not None
    settings = replace(
        target_settings(options, target),
        role="drafter",
        layer_parallel=_layer_parallel(options) if has_layers else None,
    )
    spec = ModelDrafterSpec(settings, options.num_drafter_ranks)
    return PlannedDrafter(name="virtual", spec=spec)


def _find_model(
    options: ModelOptions, target: PlannedModel, text: ModelDrafterText
) -> tuple[ModelFacts, ModelSettings]:
    """Return a drafter's checkpoint, and how its ranks run it."""
    assert target.facts is not None
    assert target.tokenizer is not None
    facts, layers, manifest = target.facts, None, None
    if text.target_layers is not None:
        layers = parse_layers(text.target_layers, target.facts.config.num_layers)
    else:
        directory = resolve_model(text.model)
        if is_drafter(directory):
            manifest = check_drafter(directory, target.facts.directory)
            facts = drafter_facts(directory, target.facts)
        else:
            facts = read_facts(directory)
    _check_ranks(facts, options, len(layers or range(facts.config.num_layers)))
    if layers is None and manifest is None:
        check_same_vocabulary(target.tokenizer, Tokenizer.load(facts.directory))
    base = target_settings(options, target)
    settings = replace(
        base,
        role="drafter",
        device=options.device_of_drafters,
        directory=str(facts.directory),
        embedding_directory=None if manifest is None else target.directory,
        prompt_window=None if manifest is None else manifest.prompt_window,
        known=base.known + (known_as(facts, text.model) if layers is None else ()),
        layers=layers,
        lookups=text.lookups.checked(target.tokenizer.digest),
        constraints=ConstraintSettings(
            tokenizer_directory=str(target.facts.directory),
            vocab_size=target.vocab_size,
            eos_ids=frozenset(target.tokenizer.eos_ids),
        ),
        layer_parallel=_layer_parallel(options),
    )
    return facts, settings


def _layer_parallel(options: ModelOptions) -> LayerParallel | None:
    """Return how the drafter's layers lie on its ranks; a single rank leaves nothing to choose."""
    asked = parse_layer_parallel(options.layer_parallel)
    if asked is not None and asked.width is None and options.num_drafter_ranks == 1:
        return None
    return asked


def _best_known(
    options: ModelOptions, target: PlannedModel, capacity: DrafterCapacity
) -> PlannedDrafter:
    """Return the drafter to use where the user named none."""
    assert target.facts is not None
    shipped = shipped_drafter(target.facts.directory)
    if shipped is None:
        why = f"no drafter was trained for {target.name}; this one costs next to nothing"
        spec = LookupDrafterSpec(_BEST_LOOKUPS)
        return PlannedDrafter(name=f"lookup:{_BEST_LOOKUPS}", spec=spec, why=why)
    has_ranks = bool(capacity.requested_by(options)) or capacity.suffices(options)
    where = "on a rank of its own" if has_ranks else "in its process: no core is free beside it"
    named = f"{'' if has_ranks else 'inline:'}{shipped}+{_BEST_LOOKUPS}"
    drafter = find_drafter(replace(options, drafter=named), target, capacity)
    return replace(drafter, why=f"trained for {shipped.name}, with look-ups, {where}")


def _check_ranks(facts: ModelFacts, options: ModelOptions, num_layers: int) -> None:
    """Reject more drafter ranks than the drafter splits over."""
    num_ranks = options.num_drafter_ranks
    if parse_layer_parallel(options.layer_parallel) is None or num_ranks == 1:
        check_tensor_parallel(facts, num_ranks, "`drafter_tp`")
    elif num_ranks > num_layers:
        raise ConfigError(
            f"`drafter_tp` is {num_ranks}: {facts.directory} has {num_layers} layers, one rank "
            "holds at least one; use fewer ranks, or `layer_parallel=off`"
        )
