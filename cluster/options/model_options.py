"""Options of the models that a verb runs."""

from dataclasses import dataclass
from typing import Annotated, Literal

from cluster.options.place_options import PlaceOptions
from cluster.options.schema import Env, Flag, Positive, Seconds
from runtime.checking.tables import Range, Unset

Weights = Literal["auto", "float32", "bfloat16", "float16", "int8", "int4"]
GroupBackend = Literal["auto", "shm", "gloo", "nccl"]
LinkKind = Literal["grpc", "gloo", "nccl"]
RayAddress = Annotated[str | None, Flag("--ray"), Env("RAY_ADDRESS"), Unset("local")]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOptions:
    """Which models run, on which processes and devices."""

    target: str | None = None
    """A Hugging Face directory, a GGUF file, a hub id, or smollm2-135m."""
    drafter: Annotated[str | None, Unset("auto")] = None
    """A model, a directory of draft train, lookup, ngram, or auto. A model has the
    target's tokenizer. target:layers=0-3,28-29 is the target cut to these layers. +ngram after a
    model also copies where the text repeats itself. ngram copies from prompt and output in a
    process of its own; lookup:ngram+recycle+store=DIR copies, from some of these sources, in the
    target's process. inline: before a model runs it in the target's process, between its
    forwards; beside: runs it there during its forwards, in a thread and on a GPU with a stream of
    its own. auto is the best drafter known for the target."""
    tp: Positive = 1
    """Ranks that the target is split over."""
    drafter_tp: Annotated[int | None, Range(least=1), Unset("auto")] = None
    """Ranks that each drafter is split over. A number gives the drafter ranks of its own or is
    rejected; auto is 1 where there is room beside the target."""
    drafters: Positive = 1
    """Drafters side by side for each target, each with requests of its own. In mode outcomes, a
    drafter without one shares in the outcomes of another's."""
    layer_parallel: str = "auto"
    """Drafter layers whose attention runs at once, each on its own rank (EasySpec): a number, auto
    or off. auto is the fastest number where the drafter has several ranks; with off the ranks share
    the heads of each layer. 4@6 and auto@6 run layers 0 to 5 one after the other."""
    virtual: str | None = None
    """Virtual devices in place of models, as target=40ms,draft=8ms,alpha=0.8. More parts:
    beta=0.65 (chance that the drafter's next guess is right where the ones before were wrong),
    branch=0ms (of a step, for each further branch of mode outcomes), position=1ms, exchanges=0,
    vocab=1024, seed=0; in place of draft also layers=32, attention=2ms, mlp=1ms, exchange=0.2ms,
    drop=0.02."""
    weights: Weights = "auto"
    """Format of the weights in memory. auto is what the file has on a CPU, and bfloat16 on CUDA; a
    named format is converted to at load, except that int8 and int4 keep matrices whose rows are not
    whole groups of 32 weights as they are. Activations and cache are float32 on a CPU."""
    device: str = "cpu"
    """cpu or cuda."""
    drafter_device: Annotated[str | None, Unset("auto")] = None
    """Device of the drafters' models: cpu or cuda; auto is the target's. cpu beside a target on
    cuda leaves the GPUs to it."""
    threads: Annotated[int | None, Range(least=1), Unset("auto")] = None
    """Threads of each rank; auto divides the cores among the ranks."""
    group_backend: GroupBackend = "auto"
    """Collectives between the ranks of a model."""
    link: LinkKind = "grpc"
    """Messages between leader and drafter."""
    place: PlaceOptions = PlaceOptions()
    max_batch: Positive = 16
    """Sequences decoded at once."""
    cache_tokens: Annotated[int | None, Range(least=1), Unset("auto")] = None
    """Tokens that the KV cache holds; auto is what the prompts need."""
    draft_wait_s: Seconds = 1.0
    """Seconds a round waits for a late draft before it continues without."""
    prefix_cache: bool = True
    """Share the cache of common prompt prefixes between requests."""
    ray_address: RayAddress = None
    """Ray cluster to join: auto, HOST:PORT, or local. local starts one that ends with this run;
    within a Ray job, it is the job's cluster."""

    @property
    def num_drafter_ranks(self) -> int:
        """Ranks of a drafter, if it has any."""
        return 1 if self.drafter_tp is None else self.drafter_tp

    @property
    def device_of_drafters(self) -> str:
        """The device of each drafter's model."""
        return self.drafter_device or self.device
