"""What `paceline serve` checks in a second, before it imports what loads models."""

from rich.console import Console

from cluster.options.serve_options import ServeOptions
from runtime.channels.addresses import check_free, is_loopback, parse_address
from runtime.channels.listening import server_credentials
from runtime.channels.tls_files import TlsNames
from runtime.channels.tokens import read_tokens
from runtime.checking.values import number
from runtime.errors import ConfigError
from runtime.service.service_logs import LOG_FORMATS

_NOTES = Console(stderr=True, highlight=False)
_TLS_FLAGS = TlsNames(certificate="--tls-cert", private_key="--tls-key", authority="--client-ca")


def run(options: ServeOptions) -> int:
    """Check where and for whom `serve` is to listen, and its limits; return the exit code.

    Raises:
        ConfigError: an address, a port, a token or a TLS file cannot be used; names the flag.
    """
    check_free(options.listen, "--listen")
    for name, value in (
        ("--max-open", options.max_open),
        ("--max-open-per-client", options.max_open_per_client),
        ("--replicas", options.replicas),
    ):
        if value < 1:
            raise ConfigError(f"{name} is {value}: at least 1 is needed")
    if number(options.step_limit_s, "--step-limit") <= 0:
        raise ConfigError(f"--step-limit is {options.step_limit_s:g} s: it must be above 0")
    number(options.drain_s, "--drain", minimum=0)
    if options.restarts < 0:
        raise ConfigError(f"--restarts is {options.restarts}: 0 starts nothing anew")
    parse_groups(options.drafter_groups)
    if options.metrics is not None:
        check_free(options.metrics, "--metrics")
        if options.metrics == options.listen and parse_address(options.listen, "--listen")[1]:
            raise ConfigError(f"--metrics and --listen are both {options.listen}: take two ports")
    if options.log_format not in LOG_FORMATS:
        formats = " or ".join(LOG_FORMATS)
        raise ConfigError(f"--log-format is {options.log_format!r}: write {formats}")
    read_tokens(options.token_file, "--token-file")
    read_tokens(options.admin_token_file, "--admin-token-file")
    server_credentials(options.tls_cert, options.tls_key, options.client_ca, _TLS_FLAGS)
    if not is_loopback(options.listen) and options.tls_cert is None:
        _NOTES.print(
            f"[yellow]warning:[/] {options.listen} is open to other hosts in plaintext: "
            "give --tls-cert and --tls-key"
        )
    return 0


def parse_groups(text: str) -> tuple[int, int]:
    """Return the least and the most drafters side by side, of `N` or `MIN:MAX`.

    Raises:
        ConfigError: it is not written so.
    """
    least, _, most = text.partition(":")
    parts = (least, most or least)
    are_numbers = all(part.isdecimal() and len(part) < 10 for part in parts)
    if not are_numbers or int(parts[0]) > int(parts[1]):
        raise ConfigError(f"--drafter-groups is {text!r}: write a number, or MIN:MAX as 0:4")
    return int(parts[0]), int(parts[1])
