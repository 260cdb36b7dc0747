"""Ray shells of the processes at the far end of what is measured."""

from parallel.training.adamw import Vector
from runtime.links.torch_link import TorchLinkSpec
from runtime.node.echo import EchoHost


class EchoActor:
    """The far end of every measured link."""

    def __init__(self) -> None:
        self._host = EchoHost()

    def listen(self, token: str) -> str:
        """Start the gRPC server and return its address."""
        return self._host.listen(token)

    def offer(self) -> TorchLinkSpec:
        """Wait for the other end of a torch.distributed link."""
        return self._host.offer()

    def close(self) -> None:
        """Stop answering."""
        self._host.close()


class VectorEchoActor:
    """Returns the vectors that it is sent."""

    def send_back(self, vector: Vector) -> Vector:
        """Return a vector as it came."""
        return vector
