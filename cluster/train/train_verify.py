"""`paceline train verify`: whether a published result is what its log comes to."""

import json

from rich.console import Console

from cluster.options.train_options import TrainReplayOptions
from cluster.train.train_replay import facts, replayed, say
from runtime.training.shared_seed.log_check import check_result, difference

_NOTES = Console(stderr=True, highlight=False)


def run(options: TrainReplayOptions) -> int:
    """Compare a published result with its log; return 0 if they are the same bits, else 1.

    Raises:
        ConfigError: the log is damaged, the base another model, or there is no result.
    """
    check_result(options.result)
    done, _ = replayed(options)
    differs = difference(options.result, done)
    if options.json:
        print(json.dumps({"same": differs is None, "difference": differs} | facts(done)))
    elif differs is None:
        _NOTES.print(f"{options.result} is what its log comes to, bit for bit: {say(done)}")
    else:
        _NOTES.print(f"[red]{options.result} is not what its log comes to:[/] {differs}")
    return 0 if differs is None else 1
