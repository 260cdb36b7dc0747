"""Check network addresses before anything starts: their form, and that a port is free."""

import errno
import ipaddress
import socket

from runtime.errors import ConfigError

_SCHEMES = ("dns", "ipv4", "ipv6", "unix", "unix-abstract", "vsock", "xds")
_PORT_PROBLEMS = {
    errno.EADDRINUSE: "the port is in use: choose another one, or end the process that uses it",
    errno.EACCES: "this user may not open the port: choose 1024 or higher",
}


def parse_address(text: str, field: str) -> tuple[str, int]:
    """Return the host and the port of HOST:PORT; an IPv6 host is in brackets.

    Raises:
        ConfigError: the text has another form, or the port is out of range.
    """
    host, _, port = text.rpartition(":")
    bare = ":" in host and not (host.startswith("[") and host.endswith("]"))
    wrong = not host or bare or any(char.isspace() or char in "/@?#" for char in text)
    if wrong or not (port.isascii() and port.isdecimal()):
        raise ConfigError(
            f"{field} is {text!r}: write HOST:PORT, such as 127.0.0.1:50051 or [::1]:50051"
        )
    if len(port) > 5 or int(port) > 65535:
        raise ConfigError(f"{field} is {text!r}: a port is between 0 and 65535")
    return host, int(port)


def check_target(text: object, field: str = "address") -> str:
    """Return a server's address, checked: HOST:PORT, or a target URI of gRPC.

    Raises:
        ConfigError: it is neither, or its port is 0.
    """
    if not isinstance(text, str):
        raise ConfigError(f"{field} is {text!r}: write HOST:PORT, such as 127.0.0.1:50051")
    if text.partition(":")[0] in _SCHEMES:
        return text
    if parse_address(text, field)[1] == 0:
        raise ConfigError(f"{field} is {text!r}: a server's port is between 1 and 65535")
    return text


def is_loopback(address: str) -> bool:
    """Return whether only this machine can reach an address or a target of gRPC."""
    host = _host(address)
    return host in ("", "localhost") or (_is_ip(host) and ipaddress.ip_address(host).is_loopback)


def stays_here(target: str) -> bool:
    """Return whether a connection to a target of gRPC stays on this machine."""
    host = _host(target)
    return is_loopback(target) or (_is_ip(host) and ipaddress.ip_address(host).is_unspecified)


def _host(target: str) -> str:
    """Return the host of a target, "" for a socket in the file system."""
    scheme, _, rest = target.partition(":")
    if scheme in ("unix", "unix-abstract"):
        return ""
    if scheme in _SCHEMES[:3]:
        target = rest.rpartition("/")[2]
    return target.rpartition(":")[0].strip("[]")


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def check_free(address: str, field: str) -> None:
    """Raise unless a server could listen at HOST:PORT now.

    Raises:
        ConfigError: the port is in use or needs privileges, or the host is another machine.
    """
    host, port = parse_address(address, field)
    try:
        found = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"{field} is {address!r}: the host cannot be found ({error})") from error
    outcomes = [_bind_error(info[0], info[4]) for info in found]
    failures = [outcome for outcome in outcomes if outcome is not None]
    for failure in failures:
        if failure.errno in _PORT_PROBLEMS:
            raise ConfigError(f"{field} is {address!r}: {_PORT_PROBLEMS[failure.errno]}")
    if len(failures) == len(outcomes):
        raise ConfigError(
            f"{field} is {address!r}: this machine cannot listen there ({failures[0].strerror}); "
            "use one of its own addresses, or 0.0.0.0 for all"
        )


def _bind_error(family: int, address: object) -> OSError | None:
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)  # type: ignore[arg-type]  # from getaddrinfo
            probe.listen(1)  # detects a port that another process has only bound
    except OSError as error:
        return error
    return None
