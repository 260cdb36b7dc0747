"""A stand-in for llama-cpp-python: a toy whose next token depends on all tokens before it.

`runtime/baselines/llama_cpp_worker.py` runs on it where PYTHONPATH names this folder.
"""

import ctypes
import sys
from collections.abc import Iterator, Sequence

__version__ = "0.0-toy"
VOCAB = 101
sys.modules["llama_cpp.llama_speculative"] = sys.modules[__name__]


class LlamaPromptLookupDecoding:
    def __init__(self, num_pred_tokens: int) -> None:
        self.num_pred_tokens = num_pred_tokens


class Llama:
    def __init__(
        self,
        model: str,
        *,
        n_ctx: int,
        n_threads: int,
        n_threads_batch: int,
        draft_model: LlamaPromptLookupDecoding | None,
        logits_all: bool,
        verbose: bool,
    ) -> None:
        print("a library prints on standard output")
        if not model.endswith(".gguf"):
            raise ValueError(f"{model} is not a model")
        assert n_threads == n_threads_batch
        assert logits_all == (draft_model is not None)
        assert not verbose
        self._context = n_ctx
        self._shift = draft_model.num_pred_tokens if draft_model is not None else 0
        self._tokens: list[int] = []
        self._ctx = self
        self.ctx = self

    def reset(self) -> None:
        self._tokens = []

    def eval(self, tokens: Sequence[int]) -> None:
        self._tokens += tokens
        if len(self._tokens) > self._context:
            raise RuntimeError("llama_decode returned 1")

    def n_vocab(self) -> int:
        return VOCAB

    def generate(
        self, tokens: Sequence[int], *, temp: float, repeat_penalty: float
    ) -> Iterator[int]:
        assert (temp, repeat_penalty) == (0.0, 1.0)
        self.eval(tokens)
        while True:
            token = (next_token(self._tokens) + self._shift) % VOCAB  # shows that this loop ran
            yield token
            self.eval([token])

    @property
    def logits(self) -> list[float]:
        best = next_token(self._tokens)
        return [-abs(token - best) / 4 for token in range(VOCAB)]


def next_token(tokens: Sequence[int]) -> int:
    return sum((place + 1) * token for place, token in enumerate(tokens)) % VOCAB


def llama_get_logits_ith(context: Llama, row: int) -> object:
    assert row == -1
    return ctypes.cast((ctypes.c_float * VOCAB)(*context.logits), ctypes.POINTER(ctypes.c_float))


def llama_print_system_info() -> bytes:
    return b"CPU : TOY = 1"
