"""How ranks prove to each other that they belong together, without sending what they share.

The secret travels with the group's spec, inside Ray; on the wire goes a keyed digest of everybody's
fresh random words, so that nothing overheard earlier is of use.
"""

import hmac
import secrets
from collections.abc import Sequence

WORD_BYTES = 32


def new_secret() -> str:
    """Return a secret for one group."""
    return secrets.token_hex(WORD_BYTES)


def new_word() -> bytes:
    """Return a rank's random word."""
    return secrets.token_bytes(WORD_BYTES)


def proof_of(secret: str, words: Sequence[bytes], rank: int) -> bytes:
    """Return what only a holder of the secret can say as `rank`, [32 bytes]."""
    said = b"".join((*words, rank.to_bytes(4, "little")))
    return hmac.digest(secret.encode(), said, "sha256")


def is_proof(secret: str, words: Sequence[bytes], rank: int, given: bytes) -> bool:
    """Compare a rank's proof, in constant time."""
    return hmac.compare_digest(proof_of(secret, words, rank), given)
