"""Options of the verbs that call a server."""

from dataclasses import dataclass

from cluster.options.schema import InputFile


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectOptions:
    """The server, and the credentials to show it."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientOptions:
    """`paceline client`."""

    connect: ConnectOptions
    prompt: str
    chat: bool
    max_tokens: int | None
    temperature: float | None
    top_p: float | None
    seed: int | None
    stop: tuple[str, ...]
    mode: str | None
    n: int | None
    logprobs: int | None
    priority: int
    timeout_s: float | None
    patience_s: float | None
    json: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TopOptions:
    """`paceline top`."""

    connect: ConnectOptions
    interval_s: float
    once: bool
    json: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminOptions:
    """`paceline admin`."""

    connect: ConnectOptions
    action: str
    """"drain", "drafter" or "drafters"."""
    drafter: str = ""
    num_drafters: int = 0
