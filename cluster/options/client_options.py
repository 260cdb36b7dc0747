"""Options of the verbs that call a server."""

from dataclasses import dataclass
from typing import Annotated

from cluster.options.schema import InputFile, NotNegative, Positive, Seconds
from parallel.decoding.types import DecodeMode
from runtime.checking.tables import Range


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectOptions:
    """The server, and the credentials of this client."""

    server: str
    """Address of the server, HOST:PORT."""
    token_file: InputFile | None = None
    """File of bearer tokens, one a line; the first is sent."""
    root_ca: InputFile | None = None
    """Authority of the server's certificate; this machine's authorities by default."""
    tls_cert: InputFile | None = None
    """Certificate of this client, PEM."""
    tls_key: InputFile | None = None
    """Its private key, PEM."""
    tls: bool = False
    """Encrypt; implied by a certificate, a key or an authority."""
    plaintext_token: bool = False
    """Send the token to another machine without encryption."""


_LOCAL = ConnectOptions(server="127.0.0.1:50051")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientOptions:
    """Generate from a server."""

    connect: ConnectOptions = _LOCAL
    prompt: str
    """The prompt."""
    chat: bool = False
    """Wrap the prompt in the model's chat template."""
    max_tokens: Positive | None = None
    """Longest answer, in tokens; the server has a default, and the end of the context ends it
    sooner."""
    temperature: Annotated[float | None, Range(least=0)] = None
    """Sampling temperature; 0 is greedy, the default."""
    top_p: Annotated[float | None, Range(above=0, most=1)] = None
    """Sample among the most probable tokens of this total probability."""
    seed: NotNegative | None = None
    """The same seed gives the same tokens; the server draws one by default."""
    stop: tuple[str, ...] = ()
    """Strings that end the answer."""
    mode: DecodeMode | None = None
    """Decoding mode; the server has a default."""
    model: str | None = None
    """Name of an adapter that the server has; by default its model alone."""
    n: Positive | None = None
    """Samples of the prompt."""
    logprobs: NotNegative | None = None
    """Most probable tokens to report at each position; needs json."""
    priority: int = 0
    """Requests of higher priority are served first; -100 to 100."""
    timeout_s: Seconds | None = None
    """Limit for the whole answer."""
    patience_s: Annotated[float | None, Range(least=0)] = None
    """Seconds to wait for a server that is away; 120 by default."""
    json: bool = False
    """Print JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TopOptions:
    """Watch a server: requests, tokens a second, acceptance, overlap, cache."""

    connect: ConnectOptions = _LOCAL
    interval_s: Annotated[float, Range(least=0.1)] = 1.0
    """Seconds between two updates."""
    once: bool = False
    """Print one update and exit."""
    json: bool = False
    """Print JSON, one line an update."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminStatusOptions:
    """Show the status of a server once, as `paceline top` does."""

    connect: ConnectOptions = _LOCAL
    json: bool = False
    """Print JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminDrainOptions:
    """Drain a server: it finishes in-flight requests, rejects new ones and exits."""

    connect: ConnectOptions = _LOCAL


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminDrafterOptions:
    """Replace the drafter while requests run; their tokens stay the same."""

    connect: ConnectOptions = _LOCAL
    drafter: str
    """As serve's --drafter, found on the server; none stops drafting, auto takes the best one
    known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminDraftersOptions:
    """Change how many drafters draft side by side, on each replica; tokens stay the same."""

    connect: ConnectOptions = _LOCAL
    num_drafters: NotNegative
    """Number of drafters; 0 stops drafting."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminAdapterAddOptions:
    """Serve an adapter under a name, in place of an older one; requests in flight keep theirs."""

    connect: ConnectOptions = _LOCAL
    name: str
    """What requests name as their model."""
    directory: str
    """The adapter's directory, on the server."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminAdapterRemoveOptions:
    """Reject new requests that name an adapter; those in flight continue."""

    connect: ConnectOptions = _LOCAL
    name: str
    """The adapter's name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminAdapterListOptions:
    """List the adapters of a server, and what drafts were worth with each."""

    connect: ConnectOptions = _LOCAL
    json: bool = False
    """Print JSON."""


AdapterOptions = AdminAdapterAddOptions | AdminAdapterRemoveOptions | AdminAdapterListOptions
