"""Choose one of several engines for a request: the one that caches most of its prompt, unless busy.

An engine keeps the prompts it has read in a prefix cache (`parallel/model/prefix.py`), so a prompt
with a known beginning is cheaper where that beginning is cached. The router remembers, by digest,
which blocks of prompts were sent to which engine.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence

_BLOCK = 16  # tokens: a page of the default cache
_MAX_BLOCKS = 65536  # remembered for each engine: a million tokens
_BLOCKS_PER_REQUEST = 8  # so many cached blocks outweigh one more running request


class PrefixRouter:
    """Remembers which engine got which prompts."""

    def __init__(self, num_replicas: int) -> None:
        self._known: list[OrderedDict[bytes, None]] = [OrderedDict() for _ in range(num_replicas)]
        self._last: tuple[Sequence[int], list[bytes]] = ((), [])

    def choose(self, prompt_ids: Sequence[int], loads: Mapping[int, int]) -> int:
        """Return the number of the best engine for a prompt.

        Args:
            prompt_ids: the prompt.
            loads: the number of requests on each engine that is up; at least one engine.
        """
        if len(loads) == 1:
            return next(iter(loads))
        digests = self._digests(prompt_ids)

        def advantage(number: int) -> tuple[int, int]:
            return self._shared(number, digests) - _BLOCKS_PER_REQUEST * loads[number], -number

        return max(loads, key=advantage)

    def note(self, number: int, prompt_ids: Sequence[int]) -> None:
        """Remember that a prompt was sent to an engine."""
        if len(self._known) == 1:
            return
        known = self._known[number]
        for digest in self._digests(prompt_ids):
            known[digest] = None
            known.move_to_end(digest)
        while len(known) > _MAX_BLOCKS:
            known.popitem(last=False)

    def forget(self, number: int) -> None:
        """Forget the prompts of a lost engine, whose successor starts with an empty cache."""
        self._known[number].clear()

    def _digests(self, prompt_ids: Sequence[int]) -> list[bytes]:
        """Return the digests of a prompt, cached for the samples of one request."""
        if self._last[0] is not prompt_ids:
            self._last = (prompt_ids, _digests(prompt_ids))
        return self._last[1]

    def _shared(self, number: int, digests: Sequence[bytes]) -> int:
        known = self._known[number]
        for index, digest in enumerate(digests):
            if digest not in known:
                return index
        return len(digests)


def _digests(prompt_ids: Sequence[int]) -> list[bytes]:
    """Return a digest of the prompt up to the end of each whole block."""
    digests: list[bytes] = []
    before = b""
    for start in range(0, len(prompt_ids) - _BLOCK + 1, _BLOCK):
        block = ",".join(map(str, prompt_ids[start : start + _BLOCK])).encode()
        before = hashlib.blake2b(before + block, digest_size=8).digest()
        digests.append(before)
    return digests
