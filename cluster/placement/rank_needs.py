"""What each rank of a plan needs of its node: a place, threads, memory."""

from dataclasses import replace

from cluster.options.model_options import ModelOptions
from cluster.placement.placement import LEAST_CPUS, PlaceOptions
from runtime.hosts.rank_settings import ModelSettings
from runtime.models.model_facts import ModelFacts
from runtime.node.cores import usable_cores


def place_of(options: ModelOptions) -> PlaceOptions:
    """Return what `place` asks for; of a local Ray ranks need next to nothing."""
    place = PlaceOptions.parse(options.place)
    if options.ray_address is None:
        return replace(place, cpus=place.cpus or LEAST_CPUS, wait_s=0.0)
    return place


def threads_of(options: ModelOptions, place: PlaceOptions, num_ranks: int) -> int:
    """Share this machine's cores out; on a cluster a rank has what it reserves."""
    if options.ray_address is None:
        return max(1, usable_cores() // num_ranks)
    return max(1, int(place.cpus or 1))


def bytes_of_rank(facts: ModelFacts | None, settings: ModelSettings, num_ranks: int) -> int:
    """Return the memory of its node that each rank of a group reserves."""
    if facts is None or settings.device != "cpu":
        return 0
    weights = facts.weight_bytes(settings.dtype, settings.layers)
    cache = facts.cache_bytes(settings.dtype, settings.cache_tokens, settings.layers)
    return (weights + cache) // num_ranks
