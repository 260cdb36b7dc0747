"""Checks that `paceline serve` makes in a second, before it imports torch and Ray."""

from rich.console import Console

from cluster.options.serve_options import ServeOptions
from runtime.channels.addresses import check_free, is_loopback, parse_address
from runtime.channels.listening import server_credentials
from runtime.channels.tls_files import TlsNames
from runtime.channels.tokens import read_tokens
from runtime.errors import ConfigError

_NOTES = Console(stderr=True, highlight=False)
_TLS_NAMES = TlsNames(certificate="`tls_cert`", private_key="`tls_key`", authority="`client_ca`")


def run(options: ServeOptions) -> int:
    """Check the addresses, credentials and limits of a server; return the exit code.

    Raises:
        ConfigError: an address, a port, a token or a TLS file cannot be used; names the field.
    """
    check_free(options.listen, "`listen`")
    if options.models.drafters > options.drafter_bounds[1]:
        raise ConfigError(
            f"`drafters` is {options.models.drafters}, above `max_drafters` {options.max_drafters}"
        )
    if options.metrics is not None:
        check_free(options.metrics, "`metrics`")
        if options.metrics == options.listen and parse_address(options.listen, "`listen`")[1]:
            raise ConfigError(f"`metrics` and `listen` are both {options.listen}: take two ports")
    read_tokens(options.token_file, "`token_file`")
    read_tokens(options.admin_token_file, "`admin_token_file`")
    server_credentials(options.tls_cert, options.tls_key, options.client_ca, _TLS_NAMES)
    if not is_loopback(options.listen) and options.tls_cert is None:
        _NOTES.print(
            f"[yellow]warning:[/] {options.listen} is open to other hosts in plaintext: "
            "give --tls-cert and --tls-key"
        )
    return 0
