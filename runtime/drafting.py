"""The drafter's side: answer draft requests, with a model."""

import logging
from collections.abc import Iterator
from collections.abc import Sequence as Items
from dataclasses import dataclass, field
from typing import Protocol

from parallel.decoding.sampling import num_candidates
from parallel.decoding.types import SparseProbs
from parallel.decoding.verify import draft_token, draft_token_with_law
from parallel.drafting.ngram import NgramIndex
from parallel.messages import (
    DraftItem,
    DraftOpen,
    DraftRequest,
    Proposal,
    ProposalItem,
)
from parallel.model.batch import SequenceRows
from runtime.clock import Clock
from runtime.errors import PeerError, ProtocolError
from runtime.ledger import SlotLedger
from runtime.links.link import Link
from runtime.shard import ShardRunner

_LOG = logging.getLogger("paceline.drafter")
_SURE_MATCH = 3  # tokens that were the same from which a copy beats a small model
_PREFILL_CHUNK = 512  # bounds the activations of one forward


@dataclass(frozen=True, slots=True)
class DraftPart:
    """A part of an answer."""

    items: tuple[ProposalItem, ...]
    partial: bool = False
    """Whether another part follows."""


class Drafter(Protocol):
    """Proposes tokens; whatever it proposes, the output is the target's."""

    def answer(self, request: DraftRequest) -> Iterator[DraftPart]:
        """Yield the drafts: in one part, or the first tokens ahead if the request says so."""
        ...

    def keep_alive(self) -> None:
        """Let the drafter's other ranks hear of it."""
        ...

    def close(self) -> None:
        """Send the other ranks home."""
        ...


@dataclass(slots=True)
class _Sequence:
    opened: DraftOpen
    token_ids: list[int] = field(default_factory=list)
    num_cached: int = 0
    draft: list[int] = field(default_factory=list)
    laws: list[SparseProbs] = field(default_factory=list)
    index: NgramIndex | None = None
    """Of its tokens, where drafts may be copied."""

    def follow(self, item: DraftItem) -> None:
        """Roll back to what stays valid and read what follows."""
        self.token_ids[item.keep :] = item.tail
        self.num_cached = min(self.num_cached, item.keep, len(self.token_ids) - 1)
        self.draft, self.laws = [], []
        if self.index is not None:
            self.index.truncate(min(item.keep, len(self.index)))
            self.index.append(self.token_ids[len(self.index) :])

    def copy(self, num_draft: int) -> bool:
        """Copy the draft from earlier text; False where no long stretch of it is the same."""
        if self.index is None:
            return False
        match = self.index.match(num_draft)
        if match.length < _SURE_MATCH:
            return False
        self.draft = list(match.token_ids)
        self.token_ids += match.token_ids
        return True


class ModelDrafter:
    """Drafts with a model on the drafter group; all items advance one token a forward.

    It may copy where the request's own text has said the same before: that is right more often than
    a small model, and takes no forward. Which of the two drafts depends on committed and drafted
    tokens alone, so each draft keeps its kind: a copy is a point, a model's token has its law.
    """

    def __init__(self, runner: ShardRunner, ledger: SlotLedger, *, copies: bool = False) -> None:
        self._runner = runner
        self._ledger = ledger
        self._copies = copies
        self._sequences: dict[int, _Sequence] = {}
        self._refused: set[int] = set()

    def answer(self, request: DraftRequest) -> Iterator[DraftPart]:
        """Draft for every item at once, one ragged forward for each draft position."""
        for number in request.closed:
            self._close(number)
        for opened in request.opened:
            self._close(opened.request)
            self._open(opened)
        known = [item for item in request.items if self._knows(item)]
        for item in known:
            self._sequences[item.request].follow(item)
        self._read([item for item in known if item.num_draft == 0], leave=0)
        drafting = [
            item
            for item in known
            if item.num_draft > 0 and not self._sequences[item.request].copy(item.num_draft)
        ]
        self._read(drafting, leave=_PREFILL_CHUNK)
        num_steps = max((item.num_draft for item in drafting), default=0)
        streaming = [item for item in drafting if item.stream and num_steps > 1]
        for index in range(num_steps):
            self._advance([item for item in drafting if item.num_draft > index])
            if index == 0 and streaming:
                yield DraftPart(tuple(self._proposal(item, 0) for item in streaming), partial=True)
        wanting = [item for item in request.items if item.num_draft > 0]
        yield DraftPart(tuple(self._proposal(item, int(item in streaming)) for item in wanting))

    def keep_alive(self) -> None:
        """Broadcast an empty plan."""
        self._runner.execute(self._ledger.plan())

    def close(self) -> None:
        """Broadcast the last plan."""
        self._runner.execute(self._ledger.plan(stop=True))

    def _open(self, opened: DraftOpen) -> None:
        if not self._ledger.fits(opened.capacity):
            _LOG.warning("no cache left for request %d: it goes undrafted", opened.request)
            self._refused.add(opened.request)
            return
        self._ledger.open(opened.request, opened.capacity)
        index = NgramIndex() if self._copies else None
        self._sequences[opened.request] = _Sequence(opened, index=index)

    def _close(self, number: int) -> None:
        self._sequences.pop(number, None)
        self._refused.discard(number)
        self._ledger.close(number)

    def _knows(self, item: DraftItem) -> bool:
        sequence = self._sequences.get(item.request)
        return sequence is not None and item.keep <= len(sequence.token_ids)

    def _read(self, items: Items[DraftItem], *, leave: int) -> None:
        """Bring the cache to within `leave` tokens of the end, in bounded chunks."""
        for item in items:
            sequence = self._sequences[item.request]
            while len(sequence.token_ids) - sequence.num_cached > max(leave, 1):
                stop = min(len(sequence.token_ids) - 1, sequence.num_cached + _PREFILL_CHUNK)
                rows = [self._rows(item.request, stop, num_logits=0)]
                self._runner.execute(self._ledger.plan(rows))

    def _advance(self, items: Items[DraftItem]) -> None:
        """Draft one more token for each item."""
        rows = []
        for item in items:
            length = len(self._sequences[item.request].token_ids)
            rows.append(self._rows(item.request, length, num_logits=1))
        wanted = [num_candidates(self._sequences[i.request].opened.sampling) for i in items]
        scores = self._runner.execute(self._ledger.plan(rows, wanted))
        for item, score in zip(items, scores, strict=True):
            sequence = self._sequences[item.request]
            opened, length = sequence.opened, len(sequence.token_ids)
            sampling = opened.sampling
            history = sequence.token_ids if sampling.repetition_penalty != 1 else ()
            position = length - opened.num_prompt
            if opened.send_probs:
                token, law = draft_token_with_law(score, sampling, opened.key, position, history)
                sequence.laws.append(law)
            else:
                token = draft_token(score, sampling, opened.key, position, history)
            sequence.draft.append(token)
            sequence.token_ids.append(token)

    def _rows(self, number: int, stop: int, *, num_logits: int) -> SequenceRows:
        sequence = self._sequences[number]
        start, sequence.num_cached = sequence.num_cached, stop
        tokens = tuple(sequence.token_ids[start:stop])
        return SequenceRows(slot=number, start=start, token_ids=tokens, num_logits=num_logits)

    def _proposal(self, item: DraftItem, first: int) -> ProposalItem:
        """Return an item's draft from its token `first` on, as far as it has come."""
        base = item.keep + len(item.tail)
        if not self._knows(item):
            unknown = item.request not in self._refused
            return ProposalItem(
                request=item.request, epoch=item.epoch, base=base, token_ids=(), unknown=unknown
            )
        sequence = self._sequences[item.request]
        return ProposalItem(
            request=item.request,
            epoch=item.epoch,
            base=base + first,
            token_ids=tuple(sequence.draft[first:]),
            draft_probs=tuple(sequence.laws[first:]),
        )


def serve_drafts(link: Link, drafter: Drafter, clock: Clock, *, heartbeat_s: float) -> None:
    """Answer the leader until it closes the link; blocks.

    Raises:
        PeerError: a rank of the drafter's own group failed.
        ProtocolError: the leader sent something that is no draft request.
    """
    while True:
        try:
            message = link.recv(heartbeat_s)
        except PeerError as error:
            _LOG.info("leader left: %s", error)
            drafter.close()
            return
        if message is None:
            drafter.keep_alive()
            continue
        if not isinstance(message, DraftRequest):
            raise ProtocolError(f"{link.peer} sent a {type(message).__name__} to a drafter")
        start_s = clock.now_s()
        for part in drafter.answer(message):
            proposal = Proposal(
                round=message.round,
                items=part.items,
                draft_s=clock.now_s() - start_s,
                partial=part.partial,
            )
            if not _sent(link, proposal):
                drafter.close()
                return


def _sent(link: Link, proposal: Proposal) -> bool:
    """Send a part; False if the leader has left, which is no failure of the drafter."""
    try:
        link.send(proposal)
    except PeerError as error:
        _LOG.info("leader left: %s", error)
        return False
    return True
