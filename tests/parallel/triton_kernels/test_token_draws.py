"""Tokens and verdicts of a device are those of the CPU, bit by bit or left to it."""

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from parallel.decoding.rng import Purpose, uniforms
from parallel.decoding.sampling import sample
from parallel.decoding.score_row import ScoreRow
from parallel.decoding.types import DraftTree, NodeKind, RngKey, SamplingParams
from parallel.decoding.verify import sample_and_match
from parallel.device_kernels.plain_kernels import PlainKernels
from parallel.device_kernels.step_kernels import NO_TOKEN, NOT_FINITE, UNDECIDED, StepKernels
from parallel.triton_kernels.kernel_set import TritonKernels
from parallel.triton_kernels.token_draws import philox, uniform
from tests.support.kernel_device import DEVICE
from tests.support.ragged_strategies import trees

KERNELS = TritonKernels()
KERNEL_SETS = [
    pytest.param(KERNELS, DEVICE, id="triton"),
    pytest.param(PlainKernels(), "cpu", id="plain"),
]
KEY = RngKey(seed=2**64 - 3, request=0x9E3779B97F4A7C15)


def draws_of(key: RngKey, positions: list[int], temperatures: list[float]) -> Tensor:
    draws = np.empty((len(positions), 4), dtype=np.int64)
    draws[:, :2] = np.array((key.seed, key.request), dtype=np.uint64).view(np.int64)
    draws[:, 2] = positions
    draws[:, 3] = np.array(temperatures).view(np.int64)
    return torch.from_numpy(draws)


def drawn(
    kernels: StepKernels, device: str, logits: Tensor, draws: Tensor, num_shards: int = 1
) -> list[int]:
    """Return the tokens of rows whose logits are held by several ranks."""
    draws = draws.to(device)
    gathered, first = [], 0
    for shard in logits.chunk(num_shards, dim=1):
        places = (len(logits), kernels.num_candidates(shard.shape[1]), 3)
        candidates = torch.full(places, 7.0, dtype=torch.float64, device=device)
        kernels.score_tokens(shard.to(device), draws, candidates, first_token=first)
        gathered.append(candidates)
        first += shard.shape[1]
    tokens = torch.full((len(logits),), 99, dtype=torch.int32, device=device)
    kernels.choose_tokens(torch.cat(gathered, dim=1), draws, tokens)
    return tokens.tolist()


@triton.jit  # type: ignore[untyped-decorator]  # Triton's
def write_uniforms(out_ptr, position, seed_ptr, N: tl.constexpr):  # type: ignore[no-untyped-def]
    blocks = tl.arange(0, N)
    seed, request = tl.load(seed_ptr).to(tl.uint64), tl.load(seed_ptr + 1).to(tl.uint64)
    one, two, three, four = philox((blocks + 1).to(tl.uint64), position, seed, request)
    tl.store(out_ptr + blocks * 4, uniform(one))
    tl.store(out_ptr + blocks * 4 + 1, uniform(two))
    tl.store(out_ptr + blocks * 4 + 2, uniform(three))
    tl.store(out_ptr + blocks * 4 + 3, uniform(four))


@pytest.mark.parametrize("key", [KEY, RngKey(seed=0, request=1), RngKey(seed=5, request=2**64 - 1)])
def test_the_noise_has_the_bits_of_the_cpu(key: RngKey) -> None:
    words = np.array((key.seed, key.request), dtype=np.uint64).view(np.int64)
    for position in (0, 1, 12345):
        out = torch.zeros(1024, dtype=torch.float64, device=DEVICE)
        write_uniforms[(1,)](out, position, torch.from_numpy(words).to(DEVICE), N=256)
        expected = uniforms(key, position, Purpose.SAMPLE, 1024)
        assert np.array_equal(out.cpu().numpy(), expected)


@pytest.mark.parametrize(("kernels", "device"), KERNEL_SETS)
@pytest.mark.parametrize("num_shards", [1, 3])
@pytest.mark.parametrize("size", [48, 5040, 9072])
def test_tokens_are_those_that_the_cpu_samples(
    kernels: StepKernels, device: str, size: int, num_shards: int
) -> None:
    generator = torch.Generator().manual_seed(size)
    temperatures = [0.0, 1.0, 0.7, 1e-4, 1e4, 2.0]
    logits = 3 * torch.randn(len(temperatures), size, generator=generator)
    logits[5, 5:] = -torch.inf
    positions = [3, 4, 0, 6, 1000, 8]
    draws = draws_of(KEY, positions, temperatures)
    assert drawn(kernels, device, logits, draws, num_shards) == [
        sample(ScoreRow(row, None), SamplingParams(temperature=temperature), KEY, position)
        for row, temperature, position in zip(logits, temperatures, positions, strict=True)
    ]


@pytest.mark.parametrize(("kernels", "device"), KERNEL_SETS)
def test_of_equal_logits_greedy_takes_the_first(kernels: StepKernels, device: str) -> None:
    logits = torch.zeros(1, 9000)
    logits[0, [8999, 5000, 4321]] = 1.0
    assert drawn(kernels, device, logits, draws_of(KEY, [0], [0.0])) == [4321]


@pytest.mark.parametrize(("kernels", "device"), KERNEL_SETS)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_no_distribution_are_named(
    kernels: StepKernels, device: str, temperature: float
) -> None:
    logits = torch.zeros(4, 5000)
    logits[0, 4999] = torch.nan
    logits[1, 3] = torch.inf
    logits[2] = -torch.inf
    tokens = drawn(kernels, device, logits, draws_of(KEY, [0] * 4, [temperature] * 4))
    assert tokens[:3] == [NOT_FINITE] * 3
    assert tokens[3] >= 0


@pytest.mark.parametrize(("kernels", "device"), KERNEL_SETS)
def test_tokens_too_close_to_rank_are_left_to_the_cpu(kernels: StepKernels, device: str) -> None:
    noise = -np.log(-np.log(uniforms(KEY, 0, Purpose.SAMPLE, 4000)))
    order = np.argsort(noise)
    gap = np.diff(noise[order])
    least = int(gap.argmin())
    lower, upper = order[least], order[least + 1]
    logits = torch.full((2, 4000), -torch.inf)
    logits[:, upper] = 0.0
    logits[0, lower] = float(gap[least])  # a tie, but for the rounding to float32
    logits[1, lower] = float(gap[least]) + 1e-6
    tokens = drawn(kernels, device, logits, draws_of(KEY, [0, 0], [1.0, 1.0]))
    assert tokens == [UNDECIDED, lower]


@settings(max_examples=40)
@given(data=st.data())
@pytest.mark.parametrize(("kernels", "device"), KERNEL_SETS)
def test_verdicts_are_those_of_the_match_verifier(
    kernels: StepKernels, device: str, data: st.DataObject
) -> None:
    """Draw trees whose tokens are often what the target samples: there are three tokens."""
    parents = data.draw(st.lists(st.just(()) | trees(6), min_size=1, max_size=4))
    scored = [data.draw(st.booleans()) or bool(nodes) for nodes in parents]
    counts = [
        (len(nodes) + 1) * is_scored for nodes, is_scored in zip(parents, scored, strict=True)
    ]
    tokens = [[data.draw(st.integers(0, 2)) for _ in nodes] for nodes in parents]
    drawn_tokens = data.draw(
        st.lists(st.integers(-3, 2), min_size=sum(counts) + 2, max_size=sum(counts) + 2)
    )
    drafts = torch.zeros(len(parents) + 1, 2, dtype=torch.int32)
    nodes_of = torch.full((2, len(parents) + 1, 7), 1, dtype=torch.int32)
    expected = []
    first = 1
    for number, (nodes, ids, count) in enumerate(zip(parents, tokens, counts, strict=True)):
        drafts[number] = torch.tensor((first, count))
        nodes_of[0, number, : len(nodes)] = torch.tensor(ids)
        nodes_of[1, number, : len(nodes)] = torch.tensor(nodes)
        expected.append(walked(nodes, ids, drawn_tokens[first : first + count]))
        first += count
    expected.append([0, NO_TOKEN])
    verdicts = torch.full((len(parents) + 1, 9), 77, dtype=torch.int32, device=device)
    kernels.match_drafts(
        torch.tensor(drawn_tokens, dtype=torch.int32, device=device),
        drafts.to(device),
        nodes_of[0].to(device),
        nodes_of[1].to(device),
        verdicts,
    )
    assert verdicts.tolist() == [line + [-1] * (9 - len(line)) for line in expected]


def walked(parents: tuple[int, ...], ids: list[int], drawn_tokens: list[int]) -> list[int]:
    """Return what `sample_and_match` accepts if the target draws these tokens, row by row."""
    if not drawn_tokens:
        return [0, NO_TOKEN]
    rows = [ScoreRow(torch.tensor([1.0]), torch.tensor([token])) for token in drawn_tokens]
    draft = DraftTree(
        token_ids=tuple(ids),
        parents=parents,
        kinds=(NodeKind.POINT,) * len(ids),
        draft_probs=(None,) * len(ids),
    )
    verdict = sample_and_match(draft, rows, SamplingParams(), KEY, 0)
    assert verdict.next_token is not None
    return [verdict.num_accepted, verdict.next_token, *verdict.accepted_nodes]
