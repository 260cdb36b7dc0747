"""Open gRPC channels: every channel of Paceline is created here.

Proxies (`http_proxy`, `no_proxy` and so on, as gRPC reads them) apply to a client's connections to
other machines. Loopback and the connections between processes of one job bypass them.
"""

from collections.abc import Sequence

import grpc

from runtime.channels.addresses import check_target, stays_here
from runtime.channels.credentials import Credentials
from runtime.channels.keepalive import pinging

Options = Sequence[tuple[str, int | str]]
CLIENT_OPTIONS: Options = (
    *pinging(),
    ("grpc.initial_reconnect_backoff_ms", 100),  # a broken stream resumes soon
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.use_local_subchannel_pool", 1),  # a new client does not inherit the waits of others
)
"""The options of a channel to a server that may restart."""
_NO_PROXY = ("grpc.enable_http_proxy", 0)


def open_channel(address: str, credentials: Credentials, options: Options = ()) -> grpc.Channel:
    """Return a client's channel to a server; it connects at the first call.

    Raises:
        ConfigError: the address or a credential cannot be used, or the token would leave this
            machine in plaintext.
    """
    tls = check_channel(address, credentials)
    options = _with_proxy_rule(address, options)
    if tls is None:
        return grpc.insecure_channel(address, options=options)
    return grpc.secure_channel(address, tls, options=options)


def open_async_channel(
    address: str, credentials: Credentials, options: Options = ()
) -> grpc.aio.Channel:
    """Return a channel for the running event loop; otherwise as `open_channel`."""
    tls = check_channel(address, credentials)
    options = _with_proxy_rule(address, options)
    if tls is None:
        return grpc.aio.insecure_channel(address, options=options)
    return grpc.aio.secure_channel(address, tls, options=options)


def check_channel(address: str, credentials: Credentials) -> grpc.ChannelCredentials | None:
    """Return the TLS credentials of a channel to a server; None for plaintext.

    Raises:
        ConfigError: as `open_channel`.
    """
    check_target(address)
    tls = credentials.channel_credentials()
    credentials.check_target(address)
    return tls


def open_internal_channel(
    address: str, options: Options = (), *, tls: grpc.ChannelCredentials | None = None
) -> grpc.Channel:
    """Return a channel between processes of one job or cluster; it bypasses proxies.

    Args:
        address: HOST:PORT.
        options: options of gRPC.
        tls: None is plaintext.
    """
    if tls is not None:
        return grpc.secure_channel(address, tls, options=(_NO_PROXY, *options))
    return grpc.insecure_channel(address, options=(_NO_PROXY, *options))


def _with_proxy_rule(address: str, options: Options) -> Options:
    return (_NO_PROXY, *options) if stays_here(address) else options
