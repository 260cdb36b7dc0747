"""Mutual authentication of ranks by a shared secret that is never sent.

Ray carries the secret within the group's spec. The ranks exchange a keyed digest of the random
nonces of all ranks, so that recorded traffic cannot be replayed.
"""

import hmac
import secrets
from collections.abc import Sequence

WORD_BYTES = 32


def new_secret() -> str:
    """Return a secret for one group."""
    return secrets.token_hex(WORD_BYTES)


def new_word() -> bytes:
    """Return a rank's random nonce."""
    return secrets.token_bytes(WORD_BYTES)


def proof_of(secret: str, words: Sequence[bytes], rank: int) -> bytes:
    """Return the proof that `rank` knows the secret, 32 bytes."""
    message = b"".join((*words, rank.to_bytes(4, "little")))
    return hmac.digest(secret.encode(), message, "sha256")


def is_proof(secret: str, words: Sequence[bytes], rank: int, given: bytes) -> bool:
    """Compare a rank's proof, in constant time."""
    return hmac.compare_digest(proof_of(secret, words, rank), given)
