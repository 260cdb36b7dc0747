"""The process in which llama.cpp runs: it reads requests and writes answers as lines of JSON.

A script for another environment, which has llama-cpp-python and nothing of ours (`make llama-cpp`).
A request is an object with `do`; an answer is an object, with `error` if the request failed.
"""

import ctypes
import json
import os
import sys
import time
from pathlib import Path
from typing import Any, TextIO

import llama_cpp
import numpy as np
from llama_cpp.llama_speculative import LlamaPromptLookupDecoding


class LlamaEngine:
    """One model and its context."""

    def __init__(self, model: str, threads: int, context: int, lookup: int | None) -> None:
        drafter = None if lookup is None else LlamaPromptLookupDecoding(num_pred_tokens=lookup)
        self._llama = llama_cpp.Llama(
            model,
            n_ctx=context,
            n_threads=threads,
            n_threads_batch=threads,
            draft_model=drafter,
            logits_all=drafter is not None,  # else the binding keeps too few rows for its drafts
            verbose=False,
        )
        self._has_drafter = drafter is not None

    def generate(self, prompt_ids: list[int], max_tokens: int) -> dict[str, object]:
        """Return `max_tokens` greedy tokens, past any end token, and their times."""
        self._llama.reset()
        found: list[int] = []
        first_s = 0.0
        start_s = time.perf_counter()
        for token in self._drafted(prompt_ids) if self._has_drafter else self._plain(prompt_ids):
            found.append(int(token))
            if len(found) == 1:
                first_s = time.perf_counter() - start_s
            if len(found) == max_tokens:
                break
        wall_s = time.perf_counter() - start_s
        return {"token_ids": found, "first_s": first_s, "wall_s": wall_s}

    def logits_after(self, prefix: list[int], token_ids: list[int]) -> dict[str, object]:
        """Return the logits of some tokens after a prefix."""
        self._llama.reset()
        self._llama.eval(prefix)
        logits = self._last_logits()
        return {"logits": [float(logits[token]) for token in token_ids]}

    def _plain(self, prompt_ids: list[int]) -> Any:
        """Yield greedy tokens, without the sampler chain of `Llama.generate`, which is slower."""
        tokens = prompt_ids
        while True:
            self._llama.eval(tokens)
            tokens = [int(self._last_logits().argmax())]
            yield tokens[0]

    def _drafted(self, prompt_ids: list[int]) -> Any:
        """Yield greedy tokens of the binding's own loop, the only one that drafts."""
        return self._llama.generate(prompt_ids, temp=0.0, repeat_penalty=1.0)

    def _last_logits(self) -> Any:
        pointer = llama_cpp.llama_get_logits_ith(self._llama._ctx.ctx, -1)
        return np.ctypeslib.as_array(pointer, shape=(self._llama.n_vocab(),))


def versions() -> dict[str, object]:
    """Return the version of the binding and of what it was built from, and the CPU's features."""
    system = llama_cpp.llama_print_system_info().decode()
    found: dict[str, object] = {"llama_cpp_python": llama_cpp.__version__, "system": system}
    libraries = Path(llama_cpp.__file__).parent / "lib"
    library = next(libraries.glob("libggml-base.*"), None)
    if library is not None:
        ggml = ctypes.CDLL(str(library))
        for name in ("ggml_version", "ggml_commit"):
            if hasattr(ggml, name):
                function = getattr(ggml, name)
                function.restype = ctypes.c_char_p
                found[name] = function().decode()
    return found


def serve(requests: TextIO, answers: TextIO) -> None:
    """Answer requests until there are no more."""
    engine: LlamaEngine | None = None
    for line in requests:
        request = json.loads(line)
        verb = request.pop("do")
        try:
            if verb == "load":
                engine = LlamaEngine(**request)
                answer: dict[str, object] = versions()
            else:
                answer = getattr(engine, verb)(**request)
        except Exception as error:  # the other side reports it
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def main() -> int:
    """Serve on standard input and output; what libraries print there is moved to the errors."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    serve(sys.stdin, answers)
    return 0


if __name__ == "__main__":
    sys.exit(main())
