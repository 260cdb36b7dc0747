"""Options of the verbs that call a server."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectOptions:
    """Which server, and how to prove oneself."""

    server: str
    token_file: Path | None = None
    root_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls: bool = False
    plaintext_token: bool = False


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
