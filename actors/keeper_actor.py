"""Ray shell of a keeper: a named actor that outlives the process that started it."""

import os
import sys

import ray

from runtime.node.keeper import KeptStatus, ProcessKeeper
from runtime.restarts import RestartLimits


class KeeperActor:
    """Keeps `paceline serve` running on its node; Ray restarts the actor with the server."""

    def __init__(
        self,
        arguments: tuple[str, ...],
        *,
        directory: str,
        path: str,
        limits: RestartLimits,
        stop_s: float,
        node_id: str,
    ) -> None:
        """Start the server.

        Args:
            arguments: the command line's, from its verb on.
            directory: where the server runs; on another node that lacks it, the actor's directory.
            path: directory of Paceline's code.
            limits: how often the server is restarted.
            stop_s: seconds in which it may end by itself.
            node_id: the node it was first started on.
        """
        environment = dict(os.environ)
        if not environment.get("CUDA_VISIBLE_DEVICES"):
            environment.pop("CUDA_VISIBLE_DEVICES", None)  # Ray's, for an actor without a GPU
        paths = [path, *filter(None, [environment.get("PYTHONPATH")])]
        environment["PYTHONPATH"] = os.pathsep.join(paths)
        context = ray.get_runtime_context()
        environment["RAY_ADDRESS"] = context.gcs_address
        moved = context.get_node_id() != node_id and not os.path.isdir(directory)
        here = os.getcwd()
        self._keeper = ProcessKeeper(
            [sys.executable, "-m", "cluster.cli", *arguments],
            environment=environment,
            directory=here if moved else directory,
            notice=f"this node has no {directory}: relative paths start at {here}" if moved else "",
            limits=limits,
            stop_s=stop_s,
            ran_before=bool(context.was_current_actor_reconstructed),
        )

    def status(self) -> KeptStatus:
        """Return the state of the server."""
        return self._keeper.status()

    def stop(self) -> KeptStatus:
        """End the server; blocks until it has ended."""
        return self._keeper.stop()
