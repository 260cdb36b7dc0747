"""What each rank of a plan needs on its node: reserved CPUs, threads and memory."""

from dataclasses import replace

from cluster.options.model_options import ModelOptions
from cluster.options.place_options import MIN_CPUS, PlaceOptions
from runtime.hosts.rank_settings import ModelSettings
from runtime.models.model_facts import ModelFacts
from runtime.node.cores import usable_cores


def place_of(options: ModelOptions) -> PlaceOptions:
    """Return where ranks run; on a local Ray, ranks reserve next to nothing."""
    if options.ray_address is None:
        return replace(options.place, cpus=options.place.cpus or MIN_CPUS, wait_s=0.0)
    return options.place


def threads_of(options: ModelOptions, place: PlaceOptions, num_ranks: int) -> int:
    """Return a rank's threads: its share of this machine's cores, or its CPUs on a cluster."""
    if options.ray_address is None:
        return max(1, usable_cores() // num_ranks)
    return max(1, int(place.cpus or 1))


def bytes_of_rank(facts: ModelFacts | None, settings: ModelSettings, num_ranks: int) -> int:
    """Return how many bytes of its node's memory each rank of a group reserves."""
    if facts is None or settings.device != "cpu":
        return 0
    weights = facts.weight_bytes(settings.weights, settings.device, settings.layers)
    cache = facts.cache_bytes(
        settings.weights, settings.device, settings.cache_tokens, settings.layers
    )
    return (weights + cache) // num_ranks
