"""Options of `paceline serve`."""

from dataclasses import dataclass
from pathlib import Path

from cluster.options.model_options import ModelOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """`paceline serve`."""

    models: ModelOptions
    mode: str
    max_tokens: int
    """Longest answer where a request names none."""
    listen: str
    token_file: Path | None
    admin_token_file: Path | None
    tls_cert: Path | None
    tls_key: Path | None
    client_ca: Path | None
    reflection: bool
    metrics: str | None
    """Where the page for Prometheus listens."""
    log_format: str
    max_open: int
    """Requests queued or running."""
    max_open_per_client: int
    drain_s: float
    replicas: int = 1
    """Deployments of the target side by side."""
    drafter_groups: str = "1"
    """Drafters side by side: a number, or MIN:MAX for an administrator to choose from."""
    step_limit_s: float = 30.0
    """Longest step of a rank that is not taken for stuck."""
    restarts: int = 5
    """Times in ten minutes that a lost target is started anew."""
    journal: Path | None = None
    """Where requests outlive the process."""
    traffic: Path | None = None
    """Where requests and answers are kept for `draft train --follow`."""
