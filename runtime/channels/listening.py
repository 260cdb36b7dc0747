"""The server's side of a channel: TLS credentials and the listening address."""

from pathlib import Path

import grpc

from runtime.channels.addresses import check_free
from runtime.channels.tls_files import TlsNames, read_authority, read_pair
from runtime.errors import ConfigError

SERVER_NAMES = TlsNames(authority="client_ca")


def server_credentials(
    certificate: Path | None,
    private_key: Path | None,
    client_ca: Path | None,
    names: TlsNames = SERVER_NAMES,
) -> grpc.ServerCredentials | None:
    """Return a server's TLS credentials, or None for plaintext.

    Args:
        certificate: the server's certificate chain, PEM.
        private_key: the private key, PEM.
        client_ca: clients must have a certificate of this authority; None requires none.
        names: names of the files in errors.

    Raises:
        ConfigError: a file is missing or cannot be used; names it.
    """
    pair = read_pair(certificate, private_key, names)
    if pair is None:
        if client_ca is not None:
            raise ConfigError(f"{names.authority} needs {names.certificate}: give both")
        return None
    authority = None if client_ca is None else read_authority(client_ca, names.authority)
    return grpc.ssl_server_credentials(
        [(pair.private_key, pair.certificate)],
        root_certificates=authority,
        require_client_auth=authority is not None,
    )


def listen(
    server: grpc.aio.Server,
    address: str,
    credentials: grpc.ServerCredentials | None,
    field: str = "address",
) -> str:
    """Make a server listen at HOST:PORT; return the address with the actual port.

    Raises:
        ConfigError: the address cannot be used; names the field.
    """
    check_free(address, field)  # gRPC does not report why it fails
    try:
        if credentials is None:
            port = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(address, credentials)
    except (RuntimeError, ValueError) as error:
        raise ConfigError(f"{field} is {address!r}: the server cannot listen there") from error
    return f"{address.rpartition(':')[0]}:{port}"
