"""Options of `paceline serve`."""

from dataclasses import dataclass
from typing import Annotated, Literal

from cluster.options.model_options import ModelOptions
from cluster.options.schema import (
    InputFile,
    NotNegative,
    OutputDirectory,
    Positive,
    Repeated,
    Seconds,
)
from parallel.decoding.types import DecodeMode
from runtime.checking.tables import Range, Unset


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """Serve generation over gRPC, and over OpenAI's HTTP API if http is set, until SIGTERM."""

    models: ModelOptions = ModelOptions()
    mode: DecodeMode = DecodeMode.AUTO
    """Decoding mode of requests that name none."""
    max_tokens: Positive = 256
    """Longest answer of requests that name none, in tokens."""
    listen: str = "127.0.0.1:50051"
    """HOST:PORT to listen on; port 0 takes a free one."""
    adapter: Annotated[tuple[str, ...], Repeated()] = ()
    """NAME=DIR: serve the adapter in DIR, which requests choose by naming NAME as their model.
    For several, repeat it."""
    watch: Annotated[tuple[str, ...], Repeated()] = ()
    """DIR or NAME=DIR: serve the newest adapter of the fine-tuning job in DIR, also while it runs,
    under its last part or NAME. For several, repeat it."""
    http: str | None = None
    """HOST:PORT to serve OpenAI's HTTP API beside gRPC; port 0 takes a free one."""
    http_origins: tuple[str, ...] = ()
    """Origins of browser pages that may call the HTTP API, such as https://chat.example; "*"
    permits all. Empty permits none."""
    token_file: InputFile | None = None
    """Bearer tokens that clients may use, one a line."""
    admin_token_file: InputFile | None = None
    """Bearer tokens that may drain the server and change its drafter, one a line. Without it, those
    of token_file may."""
    tls_cert: InputFile | None = None
    """Certificate chain of the server, PEM."""
    tls_key: InputFile | None = None
    """Private key of the certificate, PEM."""
    client_ca: InputFile | None = None
    """Require clients to have a certificate of this authority."""
    reflection: bool = True
    """Answer gRPC reflection, which describes the protocol to clients."""
    metrics: str | None = None
    """HOST:PORT of a page for Prometheus, at /metrics."""
    log_format: Literal["text", "json"] = "text"
    """Format of log lines; json is one object a line, with the request's id."""
    max_open: Positive = 256
    """Requests queued or running at once."""
    max_open_per_client: Positive = 64
    """Requests of one client queued or running at once."""
    drain_s: Annotated[float, Range(least=0)] = 30.0
    """Seconds that running requests get to finish on SIGTERM."""
    replicas: Positive = 1
    """Targets side by side; a request goes to the one that caches most of its prompt."""
    max_drafters: Annotated[int | None, Range(least=1), Unset("off")] = None
    """Most drafters for each target that `admin drafters` may start; off keeps their number."""
    monitors: tuple[str, ...] = ()
    """module:function of each Python function that requests may name as their `monitor`."""
    step_limit_s: Seconds = 30.0
    """Seconds after which a rank that makes no progress is replaced."""
    restarts: NotNegative = 5
    """Times in ten minutes that a lost target, or drafter, is restarted."""
    journal: OutputDirectory | None = None
    """Keep named requests in this directory, to resume them after this process was killed."""
    traffic: OutputDirectory | None = None
    """Keep requests and answers in this directory, for `draft follow` to learn from. Only
    its owner can read it."""

    @property
    def drafter_bounds(self) -> tuple[int, int]:
        """The fewest and the most drafters that an administrator may choose."""
        fixed = self.models.drafters
        return (fixed, fixed) if self.max_drafters is None else (0, self.max_drafters)
