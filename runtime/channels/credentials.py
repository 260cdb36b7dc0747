"""The credentials of a client: its token and certificate, and the authority it trusts."""

from dataclasses import dataclass
from pathlib import Path

import grpc

from runtime.channels.addresses import stays_here
from runtime.channels.tls_files import TlsNames, read_authority, read_pair, system_roots
from runtime.channels.tokens import check_token
from runtime.errors import ConfigError

_REMEDY = "set `tls` or `root_ca` to encrypt it, or `plaintext_token` to permit that"


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """A bearer token and TLS files; any TLS field turns TLS on."""

    token: str | None = None
    root_ca: Path | None = None
    """Authority of the server's certificate, PEM; None trusts those of the operating system."""
    certificate: Path | None = None
    private_key: Path | None = None
    tls: bool = False
    """Use TLS without any other TLS field."""
    plaintext_token: bool = False
    """Send the token unencrypted to other machines, although the network can read it."""

    def __post_init__(self) -> None:
        """Reject a token that a header cannot carry."""
        if self.token:  # a server that requires one rejects an empty one
            check_token(self.token)

    @property
    def uses_tls(self) -> bool:
        """Whether connections are encrypted."""
        return self.tls or any((self.root_ca, self.certificate, self.private_key))

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Return the metadata of each call."""
        return () if self.token is None else (("authorization", f"Bearer {self.token}"),)

    def channel_credentials(self, names: TlsNames | None = None) -> grpc.ChannelCredentials | None:
        """Return the TLS credentials, or None for plaintext.

        Args:
            names: names of the files in errors.

        Raises:
            ConfigError: a file cannot be used; names it.
        """
        if not self.uses_tls:
            return None
        names = names or TlsNames()
        pair = read_pair(_path(self.certificate), _path(self.private_key), names)
        roots = (
            system_roots()
            if self.root_ca is None
            else read_authority(Path(self.root_ca), names.authority)
        )
        if pair is None:
            return grpc.ssl_channel_credentials(roots)
        return grpc.ssl_channel_credentials(roots, pair.private_key, pair.certificate)

    def check_target(self, target: str, remedy: str = _REMEDY) -> None:
        """Raise if the token would leave this machine in plaintext.

        Args:
            target: the server's address.
            remedy: tells the user how to encrypt the connection or permit plaintext.

        Raises:
            ConfigError: it would leave; names the remedy.
        """
        exposed = bool(self.token) and not self.uses_tls and not self.plaintext_token
        if exposed and not stays_here(target):
            raise ConfigError(f"the token would travel to {target} in plaintext: {remedy}")


def _path(path: Path | str | None) -> Path | None:
    return None if path is None else Path(path)
