"""Checks that `paceline serve` makes in a second, before it imports torch and Ray."""

import re

from rich.console import Console

from cluster.options.serve_options import ServeOptions
from runtime.channels.addresses import check_free, is_loopback, parse_address
from runtime.channels.listening import server_credentials
from runtime.channels.tls_files import TlsNames
from runtime.channels.tokens import read_tokens
from runtime.errors import ConfigError

_ORIGIN = re.compile(r"https?://[A-Za-z0-9.\-\[\]:]+")
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
    taken = {options.listen: "`listen`"}
    for name, address in (("`metrics`", options.metrics), ("`http`", options.http)):
        if address is None:
            continue
        check_free(address, name)
        if address in taken and parse_address(address, name)[1]:
            raise ConfigError(f"{name} and {taken[address]} are both {address}: take two ports")
        taken[address] = name
    _check_origins(options)
    read_tokens(options.token_file, "`token_file`")
    read_tokens(options.admin_token_file, "`admin_token_file`")
    server_credentials(options.tls_cert, options.tls_key, options.client_ca, _TLS_NAMES)
    for address in filter(None, (options.listen, options.http)):
        if not is_loopback(address) and options.tls_cert is None:
            _NOTES.print(
                f"[yellow]warning:[/] {address} is open to other hosts in plaintext: "
                "give --tls-cert and --tls-key"
            )
    return 0


def _check_origins(options: ServeOptions) -> None:
    """Raise unless the origins are what browsers send."""
    if options.http_origins and options.http is None:
        raise ConfigError("`http_origins` needs `http`: give the address of the HTTP API")
    for number, origin in enumerate(options.http_origins):
        if origin != "*" and not _ORIGIN.fullmatch(origin):
            raise ConfigError(
                f"`http_origins`[{number}] is {origin!r}: write scheme, host and port as a browser "
                "sends them, such as https://chat.example or http://localhost:3000"
            )
