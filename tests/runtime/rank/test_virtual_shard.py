"""Virtual devices do what the simulator predicts: the same drafts are right, in the same rounds."""

import time

import pytest

from parallel.batch import SequenceRows
from parallel.decoding.types import DecodeMode
from parallel.group import SoloGroup
from parallel.messages import RequestStats
from parallel.simulation.decoding_rounds import simulate
from parallel.simulation.decoding_setup import SimulatedDeployment, SimulatedRequest
from runtime.errors import ConfigError
from runtime.rank.virtual_shard import VirtualShard, VirtualSpec
from tests.support.rig import VOCAB, Rig, make_submit

SPEC = VirtualSpec(target_s=0.002, draft_s=0.0005, alpha=0.8, vocab_size=VOCAB, seed=3)
PROMPTS = [(5, 1, 1), (9, 2, 2, 2), (14, 3)]


def served(mode: str, max_batch: int) -> list[RequestStats]:
    rig = Rig(virtual=SPEC, wait_budget_s=60.0, max_batch=max_batch)
    rig.attach_virtual(SPEC)
    submits = [
        make_submit(index, prompt=prompt, mode=mode, max_tokens=30, draft_length=4)
        for index, prompt in enumerate(PROMPTS)
    ]
    outcomes = rig.run(submits)
    rig.close()
    finished = [outcomes[index].finished for index in range(len(PROMPTS))]
    return [end.stats for end in finished if end is not None]


@pytest.mark.parametrize("mode", ["autoregressive", "speculative", "pearl"])
@pytest.mark.parametrize("max_batch", [1, 3])
def test_the_simulator_accepts_what_virtual_devices_accept(mode: str, max_batch: int) -> None:
    stats = served(mode, max_batch)
    assert len(stats) == len(PROMPTS)
    setting = SimulatedDeployment(
        mode=DecodeMode(mode),
        chance=SPEC.chance,
        target_s=lambda _: SPEC.target_s,
        step_s=lambda _: SPEC.draft_s,
        draft_length=4,
        max_batch=max_batch,
    )
    requests = [SimulatedRequest(stream=p[0], num_prompt=len(p), max_tokens=30) for p in PROMPTS]
    found = simulate(setting, requests)
    assert found.num_tokens == 90
    assert sum(one.accepted for one in stats) == found.accepted
    assert sum(one.rejected for one in stats) == found.rejected
    assert sum(one.drafted for one in stats) == found.drafted
    if max_batch == 1:
        assert sum(one.rounds for one in stats) == found.num_rounds
    assert (found.accepted > 0) is (mode != "autoregressive")


def test_a_drafters_next_guesses_are_right_as_often_as_beta_says() -> None:
    spec = VirtualSpec.parse("target=1us,draft=1us,alpha=0.7,beta=0.6,vocab=48,seed=2")
    target, drafter = (
        VirtualShard(spec, drafter=is_drafter, group=SoloGroup()) for is_drafter in (False, True)
    )
    rows = [SequenceRows(slot=1, start=0, token_ids=(5,) * 3000, num_logits=3000)]
    for shard in (target, drafter):
        shard.hold(1, (), 0)
    actual = target.forward(rows, 1).logits.argmax(dim=1)
    guesses = drafter.forward(rows, 1).logits.topk(3).indices
    left = guesses[:, 0] != actual
    assert 1 - left.float().mean().item() == pytest.approx(0.7, abs=0.03)
    for rank in (1, 2):
        right = guesses[:, rank] == actual
        assert right[left].float().mean().item() == pytest.approx(0.6, abs=0.06)
        left &= ~right


def test_branches_take_their_time() -> None:
    spec = VirtualSpec.parse("target=1us,draft=2ms,alpha=0.7,branch=3ms")
    assert (spec.beta, spec.branch_s) == (0.0, 0.003)
    took = []
    for parents in ((), (-1, -1, -1)):
        drafter = VirtualShard(spec, drafter=True, group=SoloGroup())
        drafter.hold(1, (), 0)
        row = SequenceRows(slot=1, start=0, token_ids=(1, 2, 3, 4), num_logits=3, parents=parents)
        start_s = time.perf_counter()
        drafter.forward([row], 1)
        took.append(time.perf_counter() - start_s)
    assert took[0] >= 0.002
    assert took[1] >= 0.008


def test_what_ranks_exchange_comes_on_top_of_the_forward() -> None:
    spec = VirtualSpec.parse("target=6ms,draft=1ms,alpha=0.8,exchanges=3")
    assert spec.exchanges == 3
    counts = [0, 0]

    class Counting:
        """A rank of a group that counts its all-reduces."""

        def __init__(self, rank: int) -> None:
            self.rank, self.size = rank, 2

        def all_reduce(self, tensor: object) -> object:
            counts[self.rank] += 1
            return tensor

    row = SequenceRows(slot=1, start=0, token_ids=(1, 2), num_logits=1)
    for rank in range(2):
        shard = VirtualShard(spec, drafter=False, group=Counting(rank))  # type: ignore[arg-type]  # half a group
        shard.hold(1, (0,), 0)
        shard.forward([row], 1)
    alone = VirtualShard(spec, drafter=False, group=SoloGroup())
    alone.hold(1, (0,), 0)
    alone.forward([row], 1)
    assert counts == [3, 3]


def test_exchanges_below_zero_are_rejected() -> None:
    with pytest.raises(ConfigError, match="exchanges at least 0"):
        VirtualSpec.parse("target=6ms,draft=1ms,alpha=0.8,exchanges=-1")
