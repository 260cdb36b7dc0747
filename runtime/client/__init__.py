"""Python clients of the service and the values they return; neither torch nor Ray is loaded.

    from runtime.client import Client

    with Client("127.0.0.1:50051") as client:
        for chunk in client.generate("Why is the sky blue?"):
            print(chunk.text, end="")

A client resumes a broken stream, because the server keeps the tokens of each request for a while,
and waits for a server that is away.
"""

from parallel.decoding.types import TokenLogprobs
from parallel.messages import EngineStatus, RequestStats
from runtime.channels.credentials import Credentials
from runtime.checking.sampling_fields import Sampling, SamplingFields
from runtime.client.adapter_status import AdapterStatus
from runtime.client.async_client import AsyncClient
from runtime.client.client import Client
from runtime.client.client_patience import ClientPatience
from runtime.client.client_protocol import Chunk, Prompt, ServiceError
from runtime.client.owner import ClientUnusable
from runtime.client.server_status import ModelInfo, RankStatus, ReplicaStatus, ServerStatus
from runtime.errors import ConfigError, InvalidValue, PacelineError, ProtocolError

__all__ = [
    "AdapterStatus",
    "AsyncClient",
    "Chunk",
    "Client",
    "ClientPatience",
    "ClientUnusable",
    "ConfigError",
    "Credentials",
    "EngineStatus",
    "InvalidValue",
    "ModelInfo",
    "PacelineError",
    "Prompt",
    "ProtocolError",
    "RankStatus",
    "ReplicaStatus",
    "RequestStats",
    "Sampling",
    "SamplingFields",
    "ServerStatus",
    "ServiceError",
    "TokenLogprobs",
]
