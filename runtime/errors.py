"""Every error Paceline raises for a cause outside its own code.

PacelineError
+-- ConfigError        a value, file or model the user gave cannot be used (exit code 2)
|   +-- InvalidValue   a field of a request, a record or an API call is refused
+-- ProtocolError      a peer sent something that breaks the wire contract
+-- PeerError          a peer stopped doing its part
|   +-- PeerTimeout    it did not answer before a deadline
|   +-- PeerLost       it is gone
+-- DrafterError       a drafter failed at one request for drafts; the next may succeed
+-- DeadlineExceeded   a request's time was over before its output was done
+-- ShapeError         tensors or counts that must agree do not
"""


class PacelineError(Exception):
    """Root of the tree."""


class ConfigError(PacelineError):
    """A value, file or model the user gave cannot be used; the message names it and the remedy."""


class InvalidValue(ConfigError, ValueError):
    """A field of a request, a record or an API call is refused; the message names the field."""


class ProtocolError(PacelineError):
    """A peer sent something that breaks the wire contract."""


class PeerError(PacelineError):
    """A peer stopped doing its part; the message names it."""


class PeerTimeout(PeerError):
    """A peer did not answer before a deadline."""


class PeerLost(PeerError):
    """A peer is gone: its process ended or its connection closed."""


class DrafterError(PacelineError):
    """A drafter failed at one request for drafts; the next may succeed."""


class DeadlineExceeded(PacelineError):
    """A request's time was over before its output was done."""


class ShapeError(PacelineError):
    """Tensors or counts that must agree do not."""
