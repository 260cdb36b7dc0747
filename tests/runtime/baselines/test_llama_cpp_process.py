"""llama.cpp in a process of its own; a toy stands in for its binding, and the worker is the real
one."""

import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from runtime.baselines.llama_cpp_process import LlamaCpp, LlamaCppSettings
from runtime.errors import ConfigError, PeerError, PeerTimeout
from tests.support.llama_binding.llama_cpp import VOCAB, next_token

BINDING = Path(__file__).resolve().parents[2] / "support" / "llama_binding"
SETTINGS = LlamaCppSettings(model="toy.gguf", threads=1, context=40)
PYTHON = Path(sys.executable)


@pytest.fixture
def _binding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(BINDING))


@pytest.fixture
def llama(_binding: None) -> Iterator[LlamaCpp]:
    with LlamaCpp(PYTHON, SETTINGS) as engine:
        yield engine


def expected(prompt: tuple[int, ...], count: int, *, shift: int = 0) -> tuple[int, ...]:
    tokens = list(prompt)
    for _ in range(count):
        tokens.append((next_token(tokens) + shift) % VOCAB)
    return tuple(tokens[len(prompt) :])


def test_each_prompt_is_decoded_from_an_empty_context(llama: LlamaCpp) -> None:
    assert psutil.Process(llama.pid).cmdline()[1].endswith("/llama_cpp_worker.py")
    assert llama.load() == {"llama_cpp_python": "0.0-toy", "system": "CPU : TOY = 1"}
    prompts = [(3, 1, 4), (1, 5, 9), (3, 1, 4)]
    found = llama.generate(prompts, 20)
    assert found.token_ids == tuple(expected(prompt, 20) for prompt in prompts)
    assert all(first_s > 0 for first_s in found.first_s)
    assert sum(found.first_s) < found.wall_s


@pytest.mark.usefixtures("_binding")
def test_drafts_come_from_the_loop_of_the_binding() -> None:
    settings = LlamaCppSettings(model="toy.gguf", threads=1, context=40, lookup=7)
    with LlamaCpp(PYTHON, settings) as llama:
        llama.load()
        assert llama.generate([(3, 1, 4)], 20).token_ids == (expected((3, 1, 4), 20, shift=7),)


def test_logits_are_those_after_the_prefix(llama: LlamaCpp) -> None:
    llama.load()
    best = next_token((3, 1, 4))
    assert llama.logits_after((3, 1, 4), (best, best - 2)) == (0.0, -0.5)


def test_a_failed_request_is_an_error_and_the_next_one_is_answered(llama: LlamaCpp) -> None:
    llama.load()
    with pytest.raises(PeerError, match="failed: RuntimeError: llama_decode returned 1"):
        llama.generate([(1,) * 41], 1)
    assert llama.generate([(1, 2)], 3).token_ids == (expected((1, 2), 3),)


@pytest.mark.usefixtures("_binding")
def test_a_file_that_is_no_model_is_refused_by_name() -> None:
    settings = LlamaCppSettings(model="notes.txt", threads=1, context=40)
    with (
        LlamaCpp(PYTHON, settings) as llama,
        pytest.raises(ConfigError, match=r"cannot load notes\.txt: .* is not a model"),
    ):
        llama.load()


def test_an_environment_without_the_binding_is_refused_with_the_remedy() -> None:
    with (
        LlamaCpp(PYTHON, SETTINGS) as llama,
        pytest.raises(ConfigError, match=r"(?s)run make llama-cpp.*No module named 'llama_cpp'"),
    ):
        llama.load()
    with pytest.raises(ConfigError, match=r"`llama_python` nowhere/python cannot be run"):
        LlamaCpp(Path("nowhere/python"), SETTINGS)


def test_a_process_that_dies_or_is_silent_is_an_error(llama: LlamaCpp) -> None:
    llama.load()
    process = psutil.Process(llama.pid)
    process.kill()
    with pytest.raises(PeerError, match=r"the process of llama\.cpp ended with exit code -9"):
        llama.generate([(1, 2)], 3)


@pytest.mark.usefixtures("_binding")
def test_the_wait_for_an_answer_has_a_deadline() -> None:
    with LlamaCpp(PYTHON, SETTINGS, wait_s=0.0) as llama:
        process = psutil.Process(llama.pid)
        process.suspend()
        with pytest.raises(PeerTimeout, match="did not answer within 0 s"):
            llama.load()
        process.resume()
