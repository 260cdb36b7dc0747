"""Connections to a server, as the command line asks for them."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from cluster.options.client_options import ConnectOptions
from runtime.channels.addresses import check_target
from runtime.channels.grpc_logging import quiet_grpc
from runtime.channels.tls_files import TlsNames
from runtime.channels.tokens import read_tokens
from runtime.client import Client, Credentials, ServiceError
from runtime.errors import ConfigError

_NOTES = Console(stderr=True, highlight=False)
_NAMES = TlsNames(certificate="`tls_cert`", private_key="`tls_key`", authority="`root_ca`")
_REMEDY = "add `tls` to encrypt it, or `plaintext_token` to permit that"
_BAD_INPUT = ("INVALID_ARGUMENT", "UNAUTHENTICATED")


def credentials_of(options: ConnectOptions) -> Credentials:
    """Return a client's credentials.

    Raises:
        ConfigError: the address, the token file or a TLS file cannot be used, or the token would
            leave this machine in plaintext; names the field.
    """
    quiet_grpc()
    check_target(options.server, "`server`")
    tokens = read_tokens(options.token_file, "`token_file`")
    credentials = Credentials(
        token=tokens[0] if tokens else None,
        root_ca=options.root_ca,
        certificate=options.tls_cert,
        private_key=options.tls_key,
        tls=options.tls,
        plaintext_token=options.plaintext_token,
    )
    credentials.channel_credentials(_NAMES)
    credentials.check_target(options.server, _REMEDY)
    return credentials


@contextmanager
def connected(options: ConnectOptions) -> Iterator[Client]:
    """Yield a client; what the server finds wrong with a request is the user's bad input.

    Raises:
        ConfigError: the server rejected a request, or a credential cannot be read.
        ServiceError: the server was unreachable, or failed.
    """
    try:
        credentials = credentials_of(options)
        with Client(options.server, credentials=credentials, on_wait=_say) as client:
            yield client
    except ServiceError as error:
        if error.code in _BAD_INPUT:
            raise ConfigError(str(error)) from error
        raise


def _say(text: str) -> None:
    _NOTES.print(text, soft_wrap=True, markup=False)
