"""Every error that Paceline raises for a cause outside its own code.

PacelineError (parallel/errors.py)
+-- ConfigError        a value, file or model from the user cannot be used (exit code 2)
|   +-- InvalidValue   a field of a request, a record or an API call is invalid
+-- ProtocolError      a peer broke the wire contract
+-- PeerError          a peer failed
|   +-- PeerTimeout    it did not answer before a deadline
|   +-- PeerLost       its process ended or its connection closed
+-- DrafterError       a drafter failed at one request for drafts; the next may succeed
+-- DeadlineExceeded   a request's deadline passed before its output was complete
+-- ShapeError         tensors or counts that must agree do not

Rooms derive errors of their own from these. A message names the fields of the API in backticks
("raise `cache_tokens` or lower `max_tokens`") and never the flags of a command: the command line
turns a field into its flag where it prints the message.
"""

from parallel.errors import PacelineError as PacelineError


class ConfigError(PacelineError):
    """A value, file or model from the user cannot be used; the message names the remedy."""


class InvalidValue(ConfigError, ValueError):
    """A field of a request, a record or an API call is invalid; the message names the field."""


class ProtocolError(PacelineError):
    """A peer broke the wire contract."""


class PeerError(PacelineError):
    """A peer failed; the message names it."""


class PeerTimeout(PeerError):
    """A peer did not answer before a deadline."""


class PeerLost(PeerError):
    """A peer is gone: its process ended or its connection closed."""


class DrafterError(PacelineError):
    """A drafter failed at one request for drafts; the next may succeed."""


class DeadlineExceeded(PacelineError):
    """A request's deadline passed before its output was complete."""


class ShapeError(PacelineError):
    """Tensors or counts that must agree do not."""
