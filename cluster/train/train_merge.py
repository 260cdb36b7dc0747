"""`paceline train merge`: a model with an adapter in it."""

import json

from rich.console import Console

from cluster.options.train_options import TrainMergeOptions
from runtime.training.adapters.merge import merge_adapter


def run(options: TrainMergeOptions) -> int:
    """Write the merged model; return the exit code.

    Raises:
        ConfigError: the adapter cannot be read, does not fit its model, or `out` is taken.
    """
    num_layers = merge_adapter(options.adapter, options.out)
    if options.json:
        print(json.dumps({"out": str(options.out), "layers": num_layers}))
    else:
        Console(stderr=True).print(f"{options.out}: {num_layers} layers changed")
    return 0
