"""Plans the groups of a run: their settings, threads and memory, before Ray starts."""

from dataclasses import replace

from cluster.deploy.deployment_spec import DeploymentSpec
from cluster.deploy.drafter_plan import PlannedDrafter
from cluster.deploy.target_plan import PlannedModel, target_settings
from cluster.options.model_options import ModelOptions
from cluster.placement.rank_needs import bytes_of_rank, place_of, threads_of
from runtime.engine.engine_limits import EngineConfig
from runtime.hosts.drafter_spec import model_of, with_model
from runtime.hosts.rank_settings import LeaderSettings, ModelSettings
from runtime.rank.memory_check import available_bytes, check_fits

_OUTCOME_TOKENS = 128
"""Room in a drafter's cache for one sequence's drafts for many outcomes of a verdict."""


def plan_deployment(
    options: ModelOptions,
    target: PlannedModel,
    drafter: PlannedDrafter,
    *,
    cache_tokens: int,
    stops: bool,
) -> DeploymentSpec:
    """Plan the groups of a run.

    Args:
        options: what the user asked for.
        target: what `plan_target` found.
        drafter: what `plan_drafter` found.
        cache_tokens: tokens all sequences in flight need together.
        stops: whether a request has stop strings or a constraint: the leader needs the tokenizer.

    Raises:
        ConfigError: memory does not suffice.
    """
    place = place_of(options)
    num_drafters = options.drafters if drafter.spec.num_ranks else 1
    num_ranks = options.tp + num_drafters * drafter.spec.num_ranks

    def sized(model: ModelSettings) -> ModelSettings:
        threads = options.threads or threads_of(options, place, num_ranks)
        tokens = options.cache_tokens or cache_tokens
        return replace(model, num_threads=threads, cache_tokens=tokens)

    def sized_drafter(model: ModelSettings) -> ModelSettings:
        found = sized(model)
        room = 0 if options.cache_tokens else options.max_batch * _OUTCOME_TOKENS
        return replace(found, cache_tokens=found.cache_tokens + room)

    settings = sized(target_settings(options, target))
    spec = DeploymentSpec(
        target=settings,
        tp=options.tp,
        leader=LeaderSettings(
            limits=EngineConfig(
                vocab_size=target.vocab_size,
                max_positions=target.max_positions,
                max_batch=options.max_batch,
                eos_ids=frozenset(target.tokenizer.eos_ids if target.tokenizer else ()),
            ),
            draft_wait_s=options.draft_wait_s,
            tokenizer_directory=target.directory if stops else None,
            link_port=place.port,
        ),
        drafter=with_model(drafter.spec, sized_drafter),
        num_drafters=num_drafters,
        group_backend=options.group_backend,
        link=options.link,
        place=place,
    )
    if options.ray_address is None:
        _check_memory(target, drafter, spec)
        return spec
    return _with_memory(target, drafter, spec)


def with_monitors(spec: DeploymentSpec, names: tuple[str, ...]) -> DeploymentSpec:
    """Return the plan of a run whose requests may name these monitors, each a module:function."""
    return replace(spec, leader=replace(spec.leader, monitors=names))


def _with_memory(
    target: PlannedModel, drafter: PlannedDrafter, spec: DeploymentSpec
) -> DeploymentSpec:
    """Return the plan with the memory that each rank reserves on its node."""
    target_bytes = bytes_of_rank(target.facts, spec.target, spec.tp)
    drafter_bytes = 0
    model, num_ranks = model_of(spec.drafter), spec.drafter.num_ranks
    if model is not None:
        drafter_bytes = bytes_of_rank(drafter.facts, model, max(num_ranks, 1))
    if not num_ranks:  # the leader holds both; all target ranks reserve alike
        target_bytes, drafter_bytes = target_bytes + drafter_bytes, 0
    return replace(spec, target_bytes=target_bytes, drafter_bytes=drafter_bytes)


def _check_memory(target: PlannedModel, drafter: PlannedDrafter, spec: DeploymentSpec) -> None:
    """Reject what this machine's memory cannot hold: weights and cache of all models."""
    held = [(target.facts, spec.target)]
    model = model_of(spec.drafter)
    if model is not None:
        held += [(drafter.facts, model)] * spec.num_drafters
    weights = cache = 0
    for facts, settings in held:
        if facts is not None and settings.device == "cpu":
            weights += facts.weight_bytes(settings.weights, settings.device, settings.layers)
            cache += facts.cache_bytes(
                settings.weights, settings.device, settings.cache_tokens, settings.layers
            )
    check_fits(weights, cache, available_bytes(), cache_tokens=spec.target.cache_tokens)
