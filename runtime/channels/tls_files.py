"""Read certificates and keys, and reject unusable ones before gRPC reads them.

gRPC reports such files late and without a cause, or ends the process.
"""

import os
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import ConfigError
from runtime.files.documents import read_bytes

_MAX_BYTES = 1 << 20
_CERTIFICATE = "-----BEGIN CERTIFICATE-----"
_DATE_PROBLEMS = {9: "is not valid yet", 10: "has expired"}
"""OpenSSL's verification codes for a certificate's dates."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsNames:
    """The names of the files in errors."""

    certificate: str = "certificate"
    private_key: str = "private_key"
    authority: str = "root_ca"


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate chain and its private key, PEM."""

    certificate: bytes
    private_key: bytes


def read_pair(
    certificate: Path | None, private_key: Path | None, names: TlsNames
) -> KeyPair | None:
    """Return a certificate with its key, or None if neither is given.

    Raises:
        ConfigError: one is missing, unreadable or not PEM, the key is encrypted or of another
            certificate, or the certificate is not valid today.
    """
    if certificate is None and private_key is None:
        return None
    if private_key is None:
        raise ConfigError(f"{names.certificate} needs {names.private_key}: give both")
    if certificate is None:
        raise ConfigError(f"{names.private_key} needs {names.certificate}: give both")
    chain = _read(certificate, names.certificate)
    key = _read(private_key, names.private_key)
    if _CERTIFICATE.encode() not in chain:
        raise ConfigError(f"{names.certificate} {certificate} has no PEM certificate")
    if b"PRIVATE KEY-----" not in key:
        raise ConfigError(f"{names.private_key} {private_key} has no PEM private key")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    encrypted: list[bool] = []
    try:
        context.load_cert_chain(certificate, private_key, password=_password_request(encrypted))
    except ssl.SSLError as error:
        if encrypted:
            problem = f"{names.private_key} {private_key} is encrypted: decrypt it (openssl pkey)"
        elif error.reason == "KEY_VALUES_MISMATCH":
            problem = (
                f"{names.private_key} {private_key} is not the key of {names.certificate} "
                f"{certificate}"
            )
        elif _is_usable(chain):
            problem = f"{names.private_key} {private_key} is damaged ({error.reason})"
        else:
            problem = f"{names.certificate} {certificate} is damaged ({error.reason})"
        raise ConfigError(problem) from error
    code = _verify_code(context, _first_certificate(chain.decode("ascii", "ignore")))
    if code in _DATE_PROBLEMS:
        raise ConfigError(f"{names.certificate} {certificate} {_DATE_PROBLEMS[code]}: renew it")
    return KeyPair(chain, key)


def read_authority(path: Path, field: str) -> bytes:
    """Return the certificates of an authority, PEM.

    Raises:
        ConfigError: the file cannot be read or has no certificate, or all have expired.
    """
    pem = _read(path, field)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cadata=pem.decode("ascii", "ignore"))
    except (ssl.SSLError, ValueError) as error:
        raise ConfigError(f"{field} {path} has no usable PEM certificate: {error}") from error
    ends = [str(found["notAfter"]) for found in context.get_ca_certs()]
    if ends and all(ssl.cert_time_to_seconds(end) < time.time() for end in ends):
        raise ConfigError(f"{field} {path} has expired: renew it")
    return pem


def system_roots() -> bytes | None:
    """Return the certificates that the operating system trusts, PEM; None uses gRPC's default."""
    if "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH" in os.environ:  # the user chose for gRPC
        return None
    trusted = ssl.create_default_context().get_ca_certs(binary_form=True)
    return "".join(map(ssl.DER_cert_to_PEM_cert, trusted)).encode() or None


def _read(path: Path, field: str) -> bytes:
    return read_bytes(path, kind=field, max_bytes=_MAX_BYTES)


def _password_request(requests: list[bool]) -> Callable[[], str]:
    """Return a password callback that records requests; OpenSSL's own asks on the terminal."""

    def password() -> str:
        requests.append(True)
        return "-"

    return password


def _is_usable(chain: bytes) -> bool:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cadata=chain.decode("ascii", "ignore"))
    except (ssl.SSLError, ValueError):
        return False
    return True


def _first_certificate(chain: str) -> str:
    end = "-----END CERTIFICATE-----"
    first = chain[chain.index(_CERTIFICATE) :]
    return first[: first.index(end) + len(end)] + "\n"


def _verify_code(server_context: ssl.SSLContext, leaf: str) -> int:
    """Return OpenSSL's verification code of a certificate, from a handshake in memory."""
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname = False
    trusting.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    trusting.load_verify_locations(cadata=leaf)
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = trusting.wrap_bio(down, up, server_side=False)
    server = server_context.wrap_bio(up, down, server_side=True)
    for side in (client, server, client):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
        except ssl.SSLCertVerificationError as error:
            return error.verify_code
        except ssl.SSLError:
            break  # another cause than the certificate: gRPC has its own rules
    return 0
