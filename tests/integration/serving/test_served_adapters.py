"""A served model with adapters: three and none in one batch, those of a running job, and changes.

What is expected are the greedy tokens of the models that peft merges.
"""

import json
import shutil
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from runtime.client import Client, ServiceError
from tests.support.integration.serving_process import ServingProcess
from tests.support.peft_adapters import save_peft_adapter
from tests.support.tiny_checkpoint import save_tiny_checkpoint
from tests.support.waiting import wait_until

NAMES = ("", "a", "b", "c")
PROMPTS = ([3, 9, 4, 3, 9, 4, 3, 9], [*([5, 6, 7, 8] * 6), 11])
MODES = ("speculative", "pearl", "auto", "autoregressive")
NUM_TOKENS = 48
WAIT_S = 60.0


@dataclass
class Adapted:
    """A server, and what its answers have to be."""

    server: ServingProcess
    base: PreTrainedModel
    merged: dict[str, PreTrainedModel]
    directory: Path
    known: dict[tuple[PreTrainedModel, int], list[int]] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return self.server.ready.partition("HTTP on ")[2].partition(",")[0].strip()

    @property
    def job(self) -> Path:
        return self.directory / "job"

    def alone(self, model: PreTrainedModel, prompt: int, num_tokens: int = NUM_TOKENS) -> list[int]:
        """Return the greedy tokens of a model alone."""
        text = self.known.setdefault((model, prompt), list(PROMPTS[prompt]))
        with torch.inference_mode():
            while len(text) < len(PROMPTS[prompt]) + num_tokens:
                logits = model(torch.tensor([text]), use_cache=False).logits
                text.append(int(logits[0, -1].argmax()))
        return text[len(PROMPTS[prompt]) :][:num_tokens]

    def fresh(self, seed: int) -> tuple[Path, PreTrainedModel]:
        """Write an adapter beside the job; return its directory and the merged model."""
        directory = self.directory / f"fresh-{seed}"
        return directory, save_peft_adapter(self.base, directory, seed=seed)

    def write(self, name: str, seed: int) -> PreTrainedModel:
        """Write a result of the job as `paceline train` does."""
        directory, model = self.fresh(seed)
        self.job.mkdir(exist_ok=True)
        directory.replace(self.job / name)
        return model


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=[2, pytest.param(1, marks=pytest.mark.slow)])
def adapted(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Adapted]:
    directory = tmp_path_factory.mktemp("adapters")
    checkpoint = save_tiny_checkpoint(directory / "tiny")
    base = AutoModelForCausalLM.from_pretrained(str(checkpoint), dtype=torch.float32).eval()
    more: dict[str, Any]
    merged, options = {"": base}, [f"--watch={directory / 'job'}", f"--tp={request.param}"]
    for number, parts in enumerate((["q_proj", "v_proj"], None, ["o_proj", "down_proj"])):
        name, more = NAMES[number + 1], {} if parts is None else {"target_modules": parts}
        place = directory / name
        merged[name] = save_peft_adapter(base, place, seed=number, r=4 + number, **more)
        options.append(f"--adapter={name}={place}")
    settings = ("cache_tokens=768", "max_batch=16", "weights=float32")
    options += [f"--set=models.{setting}" for setting in settings]
    server = ServingProcess(checkpoint, [*options, "--http=127.0.0.1:0", "--drafter=ngram"])
    yield Adapted(server, base, merged, directory)
    server.close()


@dataclass(frozen=True)
class Answer:
    token_ids: list[int]
    drafted: int
    accepted: int


def over_grpc(adapted: Adapted, name: str, prompt: int, mode: str = "auto") -> Answer:
    tokens: list[int] = []
    with Client(adapted.server.address) as client:
        for chunk in client.generate(
            PROMPTS[prompt], model=name or None, mode=mode, max_tokens=NUM_TOKENS, timeout_s=WAIT_S
        ):
            tokens += chunk.token_ids
            stats = chunk.stats
    assert stats is not None
    return Answer(tokens, stats.drafted, stats.accepted)


def over_http(adapted: Adapted, name: str, prompt: int, mode: str = "auto") -> Answer:
    """Ask over HTTP; the first connection breaks after a third of the answer."""
    body = {
        "prompt": PROMPTS[prompt],
        "mode": mode,
        "max_tokens": NUM_TOKENS,
        "temperature": 0,
        "stream": True,
        "return_token_ids": True,
        "request_id": uuid.uuid4().hex,
        **({"model": name} if name else {}),
        "stream_options": {"include_usage": True},
    }
    tokens: list[int] = []
    headers: dict[str, str] = {}
    usage: dict[str, dict[str, int]] = {}
    for most in (NUM_TOKENS // 3, NUM_TOKENS + 1):
        with (
            httpx.Client(timeout=WAIT_S) as client,
            client.stream(
                "POST", f"{adapted.url}/v1/completions", json=body, headers=headers
            ) as answer,
        ):
            assert answer.status_code == 200
            for line in answer.iter_lines():
                if line.startswith("id: "):
                    headers = {"last-event-id": line.removeprefix("id: ")}
                elif line.startswith("data: {"):
                    chunk = json.loads(line.removeprefix("data: "))
                    tokens += [t for choice in chunk["choices"] for t in choice["token_ids"]]
                    usage = chunk["usage"] or usage
                if len(tokens) >= most:
                    break
    speculation = usage["speculation"]
    return Answer(tokens, speculation["drafted_tokens"], speculation["accepted_tokens"])


def test_three_adapters_and_none_share_a_batch_over_both_wires(adapted: Adapted) -> None:
    """Those over HTTP resume after their connection broke."""
    asked = [(NAMES[n % 4], n // 4 % 2, MODES[n // 4 % 4]) for n in range(24)]
    with ThreadPoolExecutor(len(asked)) as pool:
        wires = (over_grpc, over_http)
        futures = [pool.submit(wires[n % 3 == 0], adapted, *one) for n, one in enumerate(asked)]
        answers = [future.result(timeout=2 * WAIT_S) for future in futures]
    for (name, prompt, mode), answer in zip(asked, answers, strict=True):
        assert answer.token_ids == adapted.alone(adapted.merged[name], prompt), (name, mode)
        assert answer.drafted > 0 or mode not in ("speculative", "pearl"), (name, mode)
    for name in NAMES:
        mine = [answer for one, answer in zip(asked, answers, strict=True) if one[0] == name]
        assert sum(answer.accepted for answer in mine) > 0, name
    texts = {tuple(adapted.alone(model, 0)) for model in adapted.merged.values()}
    assert len(texts) == len(NAMES), "the adapters differ"


class Load:
    """Requests for a few names, again and again until `stop`."""

    def __init__(self, adapted: Adapted, *names: str) -> None:
        self._stopping = threading.Event()
        self.answers: dict[str, list[Answer]] = {name: [] for name in names}
        self._pool = ThreadPoolExecutor(2 * len(names))
        self._running = [self._pool.submit(self._ask, adapted, name) for name in names * 2]

    def _ask(self, adapted: Adapted, name: str) -> None:
        while not self._stopping.is_set():
            self.answers[name].append(over_grpc(adapted, name, 0, "speculative"))

    def await_more(self) -> None:
        """Wait until each name has more answers, the requests for which began after this."""
        before = {name: len(answers) for name, answers in self.answers.items()}
        wait_until(
            lambda: all(len(self.answers[name]) > n + 2 for name, n in before.items()), WAIT_S
        )

    def stop(self) -> None:
        self._stopping.set()
        for future in self._running:
            future.result(timeout=WAIT_S)
        self._pool.shutdown()


def test_the_newest_adapter_of_a_running_job_is_served_and_disturbs_no_request(
    adapted: Adapted,
) -> None:
    client = Client(adapted.server.address)

    def source() -> str:
        (found,) = (one.directory for one in client.list_adapters() if one.name == "job")
        return Path(found).name

    with client, pytest.raises(ServiceError, match=r"'job' is not served yet: .*job has no"):
        list(client.generate(PROMPTS[0], model="job", patience_s=0))
    client = Client(adapted.server.address)
    with client:
        first = adapted.write("step-000010", 10)
        wait_until(lambda: [one for one in client.list_adapters() if one.name == "job"], WAIT_S)
        assert source() == "step-000010"
        load = Load(adapted, "job", "")
        load.await_more()
        damage(adapted, "step-000020", lambda data: data[: len(data) // 2])
        damage(adapted, "step-000030", lambda data: data[:-4] + b"\x00\x00\xc0\x7f")  # NaN
        shutil.copytree(adapted.job / "step-000010", adapted.job / "step-000040.new")
        printed: list[str] = []

        def is_told(text: str) -> bool:
            printed.extend(adapted.server.printed())
            return any(text in line for line in printed)

        wait_until(lambda: is_told("step-000020/adapter_model.safetensors is damaged"), WAIT_S)
        wait_until(lambda: is_told("step-000030/adapter_model.safetensors: "), WAIT_S)
        load.await_more()
        assert source() == "step-000010"
        only_first = len(load.answers["job"])
        second = adapted.write("final", 50)
        wait_until(lambda: source() == "final", WAIT_S)
        load.await_more()
        load.stop()
        last = over_grpc(adapted, "job", 1)
        assert last.token_ids == adapted.alone(second, 1)
    expected = [adapted.alone(first, 0), adapted.alone(second, 0)]
    assert expected[0] != expected[1]
    found = [answer.token_ids for answer in load.answers["job"]]
    assert found[: only_first - 2] == [expected[0]] * (only_first - 2)
    assert found[-1] == expected[1]
    assert all(tokens in expected for tokens in found), "no answer mixes two versions"
    alone = adapted.alone(adapted.base, 0)
    assert all(answer.token_ids == alone for answer in load.answers[""])
    assert all(answer.drafted > 0 for answers in load.answers.values() for answer in answers)


def damage(adapted: Adapted, name: str, change: Callable[[bytes], bytes]) -> None:
    """Write a damaged result of the job, a copy of its first one."""
    fresh = adapted.directory / "damaged"
    shutil.copytree(adapted.job / "step-000010", fresh)
    weights = fresh / "adapter_model.safetensors"
    weights.write_bytes(change(weights.read_bytes()))
    fresh.replace(adapted.job / name)


@pytest.mark.slow
def test_an_adapter_is_added_and_removed_100_times_under_load(adapted: Adapted) -> None:
    versions = [adapted.fresh(seed) for seed in (60, 61)]
    load = Load(adapted, *NAMES)
    with Client(adapted.server.address) as client:
        for number in range(100):
            directory, model = versions[number % 2]
            client.add_adapter("x", str(directory))
            answer = over_grpc(adapted, "x", 0, "speculative")
            assert answer.token_ids == adapted.alone(model, 0), number
            assert answer.drafted > 0
            if number % 3:  # else the next one replaces it
                client.remove_adapter("x")
                with pytest.raises(ServiceError, match="the model 'x' is not served here"):
                    list(client.generate(PROMPTS[0], model="x", patience_s=0))
    load.stop()
    for name, answers in load.answers.items():
        alone = adapted.alone(adapted.merged[name], 0)
        assert answers
        assert all(answer.token_ids == alone for answer in answers), name
        assert sum(answer.accepted for answer in answers) > 0
