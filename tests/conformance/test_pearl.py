"""The state machine's PEARL against the published algorithm, message for message.

The reference is Algorithm 2 of arXiv 2408.11850, written down with its two strategies; the machine
has one rule for both, and keeps the new block as the draft prepared for one outcome.
"""

import random
from dataclasses import dataclass, field

import pytest

from parallel.decoding.round_state import (
    AwaitDraft,
    BeginRound,
    Command,
    Commit,
    DraftAhead,
    DraftArrived,
    RequestDraft,
    Score,
    Verified,
    Verify,
)
from parallel.decoding.types import DecodeMode, DraftTree, Verdict
from parallel.rounds.machine import start, step

Block = tuple[int, ...]


@dataclass
class PublishedPearl:
    """Two strategies: pre-verify tests the block's first token, post-verify the block before."""

    token_ids: list[int]
    in_flight: Block = ()
    epoch: int = 0
    sent: list[Command] = field(default_factory=list)

    def round(self, gamma: int, block: Block, target: Block) -> None:
        """Run a round: `block` is drafted, and `target` is what the target would generate."""
        num, last = len(self.token_ids), self.token_ids[-1]
        if not self.in_flight:
            self.sent += [
                RequestDraft(epoch=self.epoch, base=num, draft_length=gamma),
                Score(start=num - 1, token_ids=(last,), num_logits=1),
                AwaitDraft(),
                Verify(draft=DraftTree.chain(block[:1]), num_rows=1),
            ]
            accepted = block[0] == target[0]
            self._end((target[0],), num_accepted=int(accepted), rejected=not accepted, block=block)
            return
        flying = self.in_flight
        self.sent += [
            RequestDraft(epoch=self.epoch, base=num + len(flying), draft_length=gamma),
            Score(start=num - 1, token_ids=(last, *flying), num_logits=1 + len(flying)),
            AwaitDraft(),
            Verify(draft=DraftTree.chain(flying + block[:1]), num_rows=1 + len(flying)),
        ]
        for place, token in enumerate(flying + block[:1]):
            if token != target[place]:
                emitted = target[: place + 1]
                self._end(emitted, num_accepted=place, rejected=True, block=block)
                return
        emitted = flying + block[:1]
        self._end(emitted, num_accepted=len(emitted), rejected=False, block=block)

    def _end(self, emitted: Block, *, num_accepted: int, rejected: bool, block: Block) -> None:
        reached_block = num_accepted >= len(self.in_flight)
        self.token_ids += emitted
        self.sent.append(
            Commit(
                token_ids=emitted,
                num_drafted=len(self.in_flight) + reached_block,
                num_accepted=num_accepted,
                rejected=rejected,
                ahead=DraftAhead.UNFORESEEN if rejected else DraftAhead.HIT,
                num_guesses=1,
                num_ahead=len(block),
            )
        )
        self.in_flight = () if rejected else block[1:]
        self.epoch += rejected


class MachinePearl:
    """The state machine, with drafts that arrive whole."""

    def __init__(self, token_ids: list[int]) -> None:
        self.token_ids = token_ids
        self.state = start(
            request=0,
            mode=DecodeMode.PEARL,
            num_committed=len(token_ids),
            last_token=token_ids[-1],
        )
        self.sent: list[Command] = []

    def round(self, gamma: int, block: Block, target: Block) -> None:
        """Run a round, as the published algorithm does."""
        commands = self._take(BeginRound(draft_length=gamma))
        while commands:
            command, *rest = commands
            commands = tuple(rest)
            self.sent.append(command)
            match command:
                case AwaitDraft():
                    base, epoch = self.state.base, self.state.epoch
                    draft = DraftTree.chain(block)
                    commands += self._take(DraftArrived(epoch=epoch, base=base, draft=draft))
                case Verify(draft=draft, num_rows=num_rows):
                    commands += self._take(Verified(verdict=judged(draft, num_rows, target)))
                case Commit():
                    self.token_ids += command.token_ids

    def _take(self, event: BeginRound | DraftArrived | Verified) -> tuple[Command, ...]:
        self.state, commands = step(self.state, event)
        return commands


def judged(draft: DraftTree, num_rows: int, target: Block) -> Verdict:
    """Accept what equals the target's tokens."""
    pairs = zip(draft.token_ids, target, strict=False)
    wrong = [place for place, (token, right) in enumerate(pairs) if token != right]
    num = min([*wrong, len(draft)])
    return Verdict(num_accepted=num, next_token=target[num] if num < num_rows else None)


@pytest.mark.parametrize("seed", range(20))
def test_the_machine_sends_what_the_published_algorithm_sends(seed: int) -> None:
    chooser = random.Random(seed)
    published, machine = PublishedPearl([5]), MachinePearl([5])
    num_rejected = 0
    for _ in range(200):
        gamma = chooser.randrange(1, 7)
        block = tuple(int(chooser.random() < 0.2) for _ in range(gamma))  # 0 is right
        target = (0,) * 20
        published.round(gamma, block, target)
        machine.round(gamma, block, target)
        assert machine.sent == published.sent
        assert machine.token_ids == published.token_ids
        commit, made = published.sent[-1], machine.sent[-1]
        assert isinstance(commit, Commit)
        assert isinstance(made, Commit)
        assert (made.ahead, made.num_guesses) == (commit.ahead, commit.num_guesses)
        assert made.num_ahead == commit.num_ahead
        num_rejected += commit.rejected
        published.sent.clear()
        machine.sent.clear()
    assert 20 < num_rejected < 180
