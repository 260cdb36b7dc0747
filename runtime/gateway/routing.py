"""Which of several engines gets a request: the one that holds most of its prompt, if it has time.

An engine keeps what it has read on pages (`parallel/model/prefix.py`), so a prompt that begins like
an earlier one is cheaper where that one ran. The router remembers, by digest, which blocks of which
prompts went where.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence

_BLOCK = 16  # tokens: a page of the default cache
_MOST_BLOCKS = 65536  # of each engine: a million tokens
_WORTH = 8  # blocks of prompt that outweigh one request more


class PrefixRouter:
    """Remembers where prompts went."""

    def __init__(self, num_replicas: int) -> None:
        self._known: list[OrderedDict[bytes, None]] = [OrderedDict() for _ in range(num_replicas)]
        self._last: tuple[Sequence[int], list[bytes]] = ((), [])

    def choose(self, prompt_ids: Sequence[int], loads: Mapping[int, int]) -> int:
        """Return the engine that a prompt is best sent to.

        Args:
            prompt_ids: the prompt.
            loads: the requests that run on each engine that is there; at least one.
        """
        if len(loads) == 1:
            return next(iter(loads))
        digests = self._digests(prompt_ids)
        return max(
            loads,
            key=lambda number: (self._shared(number, digests) - _WORTH * loads[number], -number),
        )

    def shared_tokens(self, number: int, prompt_ids: Sequence[int]) -> int:
        """Return how many of a prompt's first tokens an engine has been sent before."""
        return _BLOCK * self._shared(number, self._digests(prompt_ids))

    def note(self, number: int, prompt_ids: Sequence[int]) -> None:
        """Remember that a prompt went to an engine."""
        if len(self._known) == 1:
            return
        known = self._known[number]
        for digest in self._digests(prompt_ids):
            known[digest] = None
            known.move_to_end(digest)
        while len(known) > _MOST_BLOCKS:
            known.popitem(last=False)

    def forget(self, number: int) -> None:
        """Forget an engine that was lost: the next one starts with an empty cache."""
        self._known[number].clear()

    def _digests(self, prompt_ids: Sequence[int]) -> list[bytes]:
        """Return a prompt's digests; those of a request's samples are computed once."""
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
    """Return a digest for each whole block of a prompt, with all before it."""
    digests: list[bytes] = []
    before = b""
    for start in range(0, len(prompt_ids) - _BLOCK + 1, _BLOCK):
        block = ",".join(map(str, prompt_ids[start : start + _BLOCK])).encode()
        before = hashlib.blake2b(before + block, digest_size=8).digest()
        digests.append(before)
    return digests
