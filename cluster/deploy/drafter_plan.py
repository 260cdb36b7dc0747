"""Which drafter a run takes, from what the user named, or from what is known for the target."""

from dataclasses import replace

from cluster.deploy.drafter_capacity import DrafterCapacity
from cluster.deploy.planning import (
    AUTO,
    INLINE,
    LOOKUPS,
    DrafterChoice,
    PlannedModel,
    parse_layer_parallel,
)
from cluster.options.model_options import ModelOptions
from runtime.drafters.draft_checkpoint import check_drafter, is_drafter, read_drafter
from runtime.drafters.lookup_settings import LookupSettings
from runtime.drafters.shipped import shipped_drafter
from runtime.errors import ConfigError
from runtime.models.checkpoint import parse_layers, resolve_model
from runtime.models.model_facts import ModelFacts, check_tensor_parallel, read_facts
from runtime.models.tokenizer import Tokenizer, check_same_vocabulary


def plan_drafter(
    options: ModelOptions, target: PlannedModel, capacity: DrafterCapacity
) -> DrafterChoice:
    """Find the drafter, and check that it uses the target's tokens and works where it was asked to.

    Raises:
        ConfigError: it cannot be loaded, its vocabulary is another one, or ranks of its own were
            asked for and it has none.
    """
    choice = find_drafter(options, target, capacity)
    asked = capacity.requested_by(options)
    if asked and not (choice.has_ranks or choice.ngram):
        raise ConfigError(
            f"{asked} asks for a drafter on ranks of its own, and {choice.name} drafts in the "
            f"target's process: name a model or ngram with --drafter, or leave {asked} out"
        )
    if choice.ngram and options.num_drafter_ranks > 1:
        raise ConfigError(f"`drafter_tp` is {options.drafter_tp}: ngram works in one actor, take 1")
    return choice


def find_drafter(
    options: ModelOptions, target: PlannedModel, capacity: DrafterCapacity
) -> DrafterChoice:
    """Find the drafter and check that it uses the target's tokens, wherever it works.

    Raises:
        ConfigError: it cannot be loaded, or its vocabulary is another one.
    """
    name = options.drafter or AUTO
    if target.virtual is not None:
        ngram = name == "ngram"
        return DrafterChoice(name="ngram" if ngram else "virtual", ngram=ngram)
    if name == AUTO:
        return _choose_drafter(options, target, capacity)
    if name == "ngram":
        return DrafterChoice(name=name, ngram=True)
    if name == "lookup" or name.startswith("lookup:"):
        lookup = LookupSettings.parse(name.removeprefix("lookup").removeprefix(":"))
        return DrafterChoice(name=name, lookup=_checked(lookup, target))
    if name.startswith(INLINE) or LOOKUPS.search(name):
        return _plan_beside(options, target, capacity, name)
    assert target.facts is not None
    assert target.tokenizer is not None
    if name.startswith("target:"):
        kind, _, layers = name.removeprefix("target:").partition("=")
        if kind != "layers" or not layers:
            raise ConfigError(f"--drafter {name!r}: write target:layers=0-3,28-29")
        cut = parse_layers(layers, target.facts.config.num_layers)
        _check_ranks(target.facts, options, len(cut))
        return DrafterChoice(name=name, facts=target.facts, layers=cut)
    directory = resolve_model(name)
    if is_drafter(directory):
        check_drafter(directory, target.facts.directory)
        facts = ModelFacts(directory=directory, config=read_drafter(directory).config)
        _check_ranks(facts, options, facts.config.num_layers)
        return DrafterChoice(name=name, facts=facts, trained=True)
    facts = read_facts(directory)
    _check_ranks(facts, options, facts.config.num_layers)
    check_same_vocabulary(target.tokenizer, Tokenizer.load(facts.directory))
    return DrafterChoice(name=name, facts=facts)


def _plan_beside(
    options: ModelOptions, target: PlannedModel, capacity: DrafterCapacity, name: str
) -> DrafterChoice:
    """Plan `inline:MODEL`, `MODEL+ngram+recycle+store=DIR`, or both."""
    model, parts = name.removeprefix(INLINE), list[str]()
    while (match := LOOKUPS.search(model)) is not None:
        model = model[: match.start()]
        parts.insert(0, match[1])
    inline = name.startswith(INLINE)
    ranks = None if inline else options.drafter_tp
    choice = find_drafter(replace(options, drafter=model, drafter_tp=ranks), target, capacity)
    if not choice.has_model:
        raise ConfigError(f"--drafter {name!r}: only a model can be inline or have + after it")
    lookups = LookupSettings.parse_parts(parts) if parts else None
    if lookups is not None:
        lookups = _checked(lookups, target)
    return replace(choice, name=name, lookups=lookups, inline=inline)


def _checked(lookups: LookupSettings, target: PlannedModel) -> LookupSettings:
    assert target.tokenizer is not None
    return lookups.checked(target.tokenizer.digest)


def _choose_drafter(
    options: ModelOptions, target: PlannedModel, capacity: DrafterCapacity
) -> DrafterChoice:
    """Return the drafter to take where nobody named one."""
    assert target.facts is not None
    shipped = shipped_drafter(target.facts.directory)
    if shipped is None:
        lookup = LookupSettings()
        why = f"no drafter was trained for {target.name}; this one costs next to nothing"
        return DrafterChoice(name=f"lookup:{lookup}", why=why, lookup=lookup)
    has_room = bool(capacity.requested_by(options)) or capacity.suffices(options)
    place = "" if has_room else INLINE
    named = replace(options, drafter=f"{place}{shipped}+ngram+recycle")
    choice = find_drafter(named, target, capacity)
    where = "on a rank of its own" if has_room else "in its process: no core is free beside it"
    return replace(choice, why=f"trained for {target.name}, with look-ups, {where}")


def _check_ranks(facts: ModelFacts, options: ModelOptions, num_layers: int) -> None:
    """Refuse more drafter ranks than the drafter splits over."""
    if parse_layer_parallel(options.layer_parallel) is None or options.num_drafter_ranks == 1:
        check_tensor_parallel(facts, options.num_drafter_ranks, "`drafter_tp`")
    elif options.num_drafter_ranks > num_layers:
        raise ConfigError(
            f"`drafter_tp` is {options.drafter_tp}: {facts.directory} has {num_layers} layers to "
            "lie on them; take fewer ranks, or `layer_parallel` off"
        )
