"""SmolLM2 on real Ray actors, groups and links: the tokens of transformers, whatever happens."""

import os
import re
import signal
import time
from pathlib import Path

import pytest

from cluster.deploy.deployment import Deployment
from parallel.decoding.types import SamplingParams
from runtime.errors import PeerError
from tests.integration.conftest import Deploy
from tests.support.integration.runs import make_submits, run, token_prompts, tokens_of
from tests.support.models import check_identity, smollm2_directory

MODES = ("autoregressive", "speculative", "pearl")
CUT = "target:layers=0-27,29"


@pytest.fixture(scope="module")
def directory() -> Path:
    return smollm2_directory()


@pytest.fixture(scope="module")
def prompts(directory: Path) -> list[tuple[int, ...]]:
    return token_prompts(directory)


@pytest.fixture(scope="module")
def single(deploy: Deploy) -> Deployment:
    """One target rank, n-gram drafts over gRPC."""
    return deploy(drafter="ngram")


@pytest.fixture(scope="module")
def looking(deploy: Deploy) -> Deployment:
    """One target rank that looks its drafts up itself."""
    return deploy(drafter="lookup")


@pytest.fixture(scope="module")
def double(deploy: Deploy) -> Deployment:
    """Two target ranks (6 + 3 heads), a model drafter over torch.distributed."""
    return deploy(drafter=CUT, tp=2, link="gloo")


@pytest.fixture(scope="module")
def triple(deploy: Deploy) -> Deployment:
    """Three target ranks on gloo, a drafter of two ranks over gRPC."""
    return deploy(drafter=CUT, tp=3, drafter_tp=2, group_backend="gloo")


def test_weights_lie_in_huge_pages(single: Deployment) -> None:
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not setting.exists() or "[never]" in setting.read_text():
        pytest.skip("this kernel gives no transparent huge pages")
    (pid,) = single.pids("target")
    maps = Path(f"/proc/{pid}/smaps").read_text()
    huge = re.findall(r"AnonHugePages: +(\d+) kB(?s:.*?)VmFlags:(.*)", maps)
    # "hg" is where they were asked for: some kernels give them everywhere.
    asked = sum(int(size) for size, flags in huge if "hg" in flags.split())
    assert asked > 100 << 10, "the target's 500 MB of weights lie in small pages"


@pytest.mark.parametrize(
    "shape", ["single", "looking", "double", pytest.param("triple", marks=pytest.mark.slow)]
)
def test_all_modes_give_the_tokens_of_transformers(
    shape: str,
    directory: Path,
    prompts: list[tuple[int, ...]],
    request: pytest.FixtureRequest,
) -> None:
    deployment: Deployment = request.getfixturevalue(shape)
    for mode in MODES:
        results = run(deployment, make_submits(prompts[:3], mode=mode))
        for prompt, tokens in zip(prompts, tokens_of(results), strict=False):
            near_tie = check_identity(directory, prompt, tokens)
            if near_tie:
                print(f"{shape} {mode}: {near_tie}")
        drafted = sum(result.stats.drafted for result in results)
        accepted = sum(result.stats.accepted for result in results)
        assert (drafted > 0) == (mode != "autoregressive")
        assert (accepted > 0) == (mode != "autoregressive")


def test_recycled_predictions_are_accepted(
    deploy: Deploy, directory: Path, prompts: list[tuple[int, ...]]
) -> None:
    """What was scored for one request drafts for the next: nothing else is there to copy from."""
    deployment = deploy(drafter="lookup:recycle")
    submits = make_submits(prompts[:2], mode="speculative")
    first = run(deployment, submits)
    again = run(deployment, submits)
    for prompt, tokens in zip(prompts, tokens_of(again), strict=False):
        check_identity(directory, prompt, tokens)
    drafted, accepted = (
        [sum(getattr(result.stats, name) for result in results) for results in (first, again)]
        for name in ("drafted", "accepted")
    )
    assert min(drafted) > 0
    assert accepted[1] > accepted[0] > 0
    tested = [sum(counts) for counts in zip(*(r.stats.tested_at for r in again), strict=False)]
    assert tested[0] >= tested[1] > 0


def test_a_seed_gives_the_same_tokens_alone_in_a_batch_in_any_order_and_split(
    single: Deployment, double: Deployment, prompts: list[tuple[int, ...]]
) -> None:
    sampling = SamplingParams(temperature=0.8, seed=7)
    batch = [prompts[index % 5] + (index,) for index in range(16)]
    submits = make_submits(batch, sampling=sampling, max_tokens=12)
    together = tokens_of(run(single, submits))
    assert tokens_of(run(single, submits[::-1])) == together
    assert tokens_of(run(double, submits)) == together
    for submit in submits[:3]:
        assert tokens_of(run(single, [submit])) == [together[submit.request]]
    plain = make_submits(batch, sampling=sampling, max_tokens=12, mode="autoregressive")
    assert tokens_of(run(single, plain)) == together


def test_sixteen_prompts_together_give_what_each_gives_alone_and_faster(
    single: Deployment, prompts: list[tuple[int, ...]]
) -> None:
    batch = [(prompts[index % 5] * 4)[: 3 + 9 * index] for index in range(16)]
    submits = make_submits(batch, max_tokens=16)
    start_s = time.perf_counter()
    together = run(single, submits)
    together_s = time.perf_counter() - start_s
    start_s = time.perf_counter()
    alone = [run(single, [submit])[0] for submit in submits]
    alone_s = time.perf_counter() - start_s
    assert tokens_of(together) == tokens_of(alone)
    assert sum(result.stats.drafted for result in together) > 0
    assert sum(result.stats.accepted for result in together) > 0
    print(f"16 together: {together_s:.1f} s, in a row: {alone_s:.1f} s")


def test_killing_the_drafter_in_mid_generation_changes_no_token(
    deploy: Deploy, prompts: list[tuple[int, ...]], single: Deployment
) -> None:
    sampling = SamplingParams(temperature=0.8, seed=7)
    submits = make_submits(prompts[:3], sampling=sampling, max_tokens=40)
    expected = tokens_of(run(single, submits))
    deployment = deploy(drafter=CUT, draft_wait_s=0.5)
    victim = deployment.pids("drafter")[0]
    seen: list[int] = []

    def kill_once(_: object, token_ids: tuple[int, ...]) -> None:
        seen.extend(token_ids)
        if victim and 20 < len(seen) < 100:
            os.kill(victim, signal.SIGKILL)
            seen.extend([0] * 100)

    results = run(deployment, submits, kill_once)
    assert tokens_of(results) == expected
    assert all(result.stats.drafter_lost for result in results)
    assert sum(result.stats.accepted for result in results) > 0
    _wait_for_loss(deployment)


@pytest.mark.parametrize("rank", [0, 1])
def test_killing_a_target_rank_ends_in_an_error_that_names_it(
    rank: int, deploy: Deploy, tiny_checkpoint: Path
) -> None:
    deployment = deploy(target=str(tiny_checkpoint), drafter="ngram", tp=2)
    victim = deployment.pids("target")[rank]
    seen: list[int] = []
    killed_s = 0.0

    def kill_once(_: object, token_ids: tuple[int, ...]) -> None:
        nonlocal killed_s
        seen.extend(token_ids)
        if not killed_s and len(seen) > 5:
            os.kill(victim, signal.SIGKILL)
            killed_s = time.monotonic()

    with pytest.raises(PeerError, match=f"target rank {rank}"):
        run(deployment, make_submits([(1, 2, 3), (4, 5)], max_tokens=400), kill_once)
    assert time.monotonic() - killed_s < 30


def _wait_for_loss(deployment: Deployment) -> None:
    for _ in range(100):
        deployment.check()
        if deployment.lost_drafters:
            return
        time.sleep(0.1)
    pytest.fail("the deployment never noticed that the drafter died")
