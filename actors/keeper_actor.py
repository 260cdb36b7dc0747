"""Ray shell of a keeper: a named actor that outlives whoever started it."""

import os
import sys

import ray

from runtime.node.keeper import KeptStatus, ProcessKeeper
from runtime.restarts import RestartLimits


class KeeperActor:
    """Keeps `paceline serve` up on its node; Ray starts the actor again, and with it the server."""

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
            directory: where the server runs; on another node than it was first started on, where
                the actor runs if that node does not have it.
            path: where Paceline's code lies.
            limits: how often the server is restarted.
            stop_s: seconds that it gets to end by itself.
            node_id: where it was first started.
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
        """Return where the server stands."""
        return self._keeper.status()

    def stop(self) -> KeptStatus:
        """End the server; blocks until it has ended."""
        return self._keeper.stop()
