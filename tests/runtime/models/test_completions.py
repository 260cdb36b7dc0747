"""Prompts and completions as tokens, against what transformers makes of the same texts."""

import random
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from runtime.errors import ConfigError
from runtime.models.completions import (
    encode_completion,
    encode_turns,
    render_answer,
    render_turns,
)
from runtime.models.tokenizer import Tokenizer
from tests.support.tokenizer_layouts import CHATML, LAYOUTS, byte_level, write

ASK = [{"role": "user", "content": "is it ?"}]
OPENS_THINKING = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)
ADDS_THINKING = OPENS_THINKING.replace(
    "{{ m['content'] }}",
    "{% if m['role'] == 'assistant' %}<think>\n\n</think>\n\n{% endif %}{{ m['content'] }}",
)
DROPS_THINKING = CHATML.replace("m['content']", "m['content'].split('</think>')[-1]")
NO_END = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}[assistant] "


def load(folder: Path) -> tuple[Tokenizer, Any]:
    return Tokenizer.load(folder), AutoTokenizer.from_pretrained(folder)


def chat(folder: Path, template: str, **settings: object) -> tuple[Tokenizer, Any]:
    write(folder, byte_level(), {"eos_token": "<|im_end|>"} | settings, template=template)
    return load(folder)


def learned(tokenizer: Tokenizer, content: str) -> tuple[list[int], list[int]]:
    answer = render_answer(tokenizer, [*ASK, {"role": "assistant", "content": content}])
    tokens = encode_completion(tokenizer, answer.prompt, answer.completion, whole=False)
    return list(tokens.prompt_ids), list(tokens.completion_ids)


@pytest.mark.parametrize(
    "name", [name for name in LAYOUTS if "sentence" in name or "gemma" in name]
)
@pytest.mark.parametrize(
    ("prompt", "completion", "expected"),
    [
        ("the fox:", " Paris", ["▁Paris"]),
        ("the fox: ", "Paris", ["P", "a", "r", "i", "s"]),
        ("the fox:", "Paris", ["P", "a", "r", "i", "s"]),
        ("the", "se", ["s", "e"]),
        ("the fox:\n", "\nno", ["<0x0A>", "n", "o"]),
    ],
)
def test_a_completion_has_the_tokens_that_generation_would_write(
    tmp_path: Path, name: str, prompt: str, completion: str, expected: list[str]
) -> None:
    LAYOUTS[name](tmp_path)
    ours, theirs = load(tmp_path)
    tokens = encode_completion(ours, prompt, completion, whole=True)
    assert list(tokens.prompt_ids) == theirs.encode(prompt)
    assert theirs.convert_ids_to_tokens(list(tokens.completion_ids)) == expected
    both = [*tokens.prompt_ids, *tokens.completion_ids]
    whole = theirs.encode(prompt + completion)
    assert theirs.decode(both) == theirs.decode(whole)


@pytest.mark.parametrize("name", ["byte-level", "llama 3", "bos and eos flags"])
@pytest.mark.parametrize("prompt", ["the quick", "the quick ", "the quick\n", "naï", "1"])
@pytest.mark.parametrize("completion", [" fox", "fox", "\n\nfox", "ve 你", "2 .", " "])
def test_any_split_of_a_text_keeps_it(
    tmp_path: Path, name: str, prompt: str, completion: str
) -> None:
    LAYOUTS[name](tmp_path)
    ours, theirs = load(tmp_path)
    tokens = encode_completion(ours, prompt, completion, whole=True)
    assert list(tokens.prompt_ids) == theirs.encode(prompt)
    ids = [*theirs.encode(prompt, add_special_tokens=False), *tokens.completion_ids]
    assert theirs.decode(ids) == prompt + completion


def test_an_empty_prompt_has_the_tokens_that_begin_a_text(tmp_path: Path) -> None:
    LAYOUTS["sentencepiece, first"](tmp_path)
    ours, theirs = load(tmp_path)
    tokens = encode_completion(ours, "", "the fox", whole=True)
    assert [*tokens.prompt_ids, *tokens.completion_ids] == theirs.encode("the fox")
    assert theirs.convert_ids_to_tokens(list(tokens.prompt_ids)) == ["<s>"]


def test_an_answer_ends_with_the_end_token_of_the_template(tmp_path: Path) -> None:
    ours, theirs = chat(tmp_path, CHATML, eos_token="<|endoftext|>")
    ours.eos_ids |= {2}  # as generation_config.json has it
    prompt, completion = learned(ours, "no .")
    assert prompt == theirs.apply_chat_template(ASK, add_generation_prompt=True, return_dict=False)
    assert completion == theirs.encode("no .<|im_end|>", add_special_tokens=False)


@pytest.mark.parametrize("content", ["end with <|im_end|> , no ?", "<|im_end|>"])
def test_an_answer_that_quotes_its_end_token_is_whole(tmp_path: Path, content: str) -> None:
    ours, theirs = chat(tmp_path, CHATML)
    expected = theirs.encode(f"{content}<|im_end|>", add_special_tokens=False)
    assert learned(ours, content)[1] == expected


def test_a_template_without_an_end_gives_all_that_it_writes(tmp_path: Path) -> None:
    ours, theirs = chat(tmp_path, NO_END.replace("[assistant] ", ""))
    expected = theirs.encode("[assistant] no <|im_end|> .\n", add_special_tokens=False)
    assert learned(ours, "no <|im_end|> .")[1] == expected


@pytest.mark.parametrize(
    ("template", "content", "expected"),
    [
        (OPENS_THINKING, "<think>\nit is\n</think>\nno", "it is\n</think>\nno<|im_end|>"),
        (ADDS_THINKING, "no", "\n</think>\n\nno<|im_end|>"),
    ],
)
def test_reasoning_that_the_prompt_opens_is_continued(
    tmp_path: Path, template: str, content: str, expected: str
) -> None:
    ours, theirs = chat(tmp_path, template)
    prompt, completion = learned(ours, content)
    assert theirs.decode(prompt).endswith("<|im_start|>assistant\n<think>\n")
    assert theirs.decode(completion) == expected


@pytest.mark.parametrize(
    ("template", "content", "message"),
    [
        (OPENS_THINKING, "no", r"starts the assistant with '<think>\\n' in a prompt and with 'no<"),
        (DROPS_THINKING, "<think>it is</think>no", "changes the answer '<think>it is</think>no'"),
    ],
)
def test_an_answer_that_generation_would_not_write_is_rejected(
    tmp_path: Path, template: str, content: str, message: str
) -> None:
    ours, _ = chat(tmp_path, template)
    with pytest.raises(ConfigError, match=message):
        learned(ours, content)


def test_a_conversation_in_sentencepiece_is_that_of_transformers(tmp_path: Path) -> None:
    LAYOUTS["llama class"](tmp_path)
    ours, theirs = load(tmp_path)
    messages = [*ASK, {"role": "assistant", "content": "Paris"}]
    prompt, completion = learned(ours, "Paris")
    assert [*prompt, *completion] == theirs.apply_chat_template(messages, return_dict=False)
    assert prompt == theirs.apply_chat_template(ASK, add_generation_prompt=True, return_dict=False)
    assert completion[-1] == theirs.eos_token_id


def marked(before: str, answer: str) -> str:
    """Return a template whose assistant's part transformers can mark."""
    return (
        "{% for m in messages %}{% if m['role'] == 'assistant' %}"
        f"{before}{{% generation %}}{answer}{{% endgeneration %}}"
    )


TURN_TEMPLATES = {
    "chatml": marked("<|im_start|>assistant\n", "{{ m['content'] + '<|im_end|>' }}")
    + "{{ '\n' }}{% else %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "headers": "{{ bos_token }}"
    + marked("<|im_start|>assistant<|sep|>\n\n", "{{ m['content'] | trim + '<|im_end|>' }}")
    + "{% else %}<|im_start|>{{ m['role'] }}<|sep|>\n\n{{ m['content'] | trim }}<|im_end|>"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant<|sep|>\n\n{% endif %}",
    "instructions": marked("", "{{ ' ' + m['content'] + eos_token }}")
    + "{% elif m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% else %}[{{ m['role'] }}] {{ m['content'] }} {% endif %}{% endfor %}",
}


def conversation(seed: int) -> list[dict[str, str]]:
    """Return a conversation of one to four exchanges, some with tools and a system's turn."""
    draw = random.Random(seed)

    def words(role: str) -> dict[str, str]:
        chosen = draw.choices(["fox", "quick", "no .", "naïve", "你好", "is\nit", "Paris"], k=5)
        return {"role": role, "content": " ".join(chosen)}

    found = [words("system")] if draw.random() < 0.3 else []
    for _ in range(draw.randint(1, 4)):
        found += [words("user"), words("assistant")]
        if draw.random() < 0.2:
            found += [words("tool"), words("assistant")]
    return found


TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}
    for name in ("quick_look", "fox")
]
WITH_TOOLS = "{% if tools %}{% for t in tools %}{{ t | tojson }}\n{% endfor %}{% endif %}"


@pytest.mark.parametrize("tools", [(), TOOLS], ids=["without tools", "with tools"])
@pytest.mark.parametrize("name", TURN_TEMPLATES)
def test_all_turns_are_learned_where_transformers_marks_them(
    tmp_path: Path, name: str, tools: list[dict[str, object]]
) -> None:
    inner = byte_level(special=["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|sep|>", "<s>"])
    settings = {"eos_token": "<|im_end|>", "bos_token": "<s>"}
    write(tmp_path, inner, settings, template=WITH_TOOLS + TURN_TEMPLATES[name])
    ours, theirs = load(tmp_path)
    for seed in range(50):
        messages = conversation(seed)
        turns = encode_turns(ours, render_turns(ours, messages, tools))
        wanted = theirs.apply_chat_template(
            messages,
            tools=list(tools) or None,
            return_dict=True,
            return_assistant_tokens_mask=True,
        )
        assert ("quick_look" in theirs.decode(wanted["input_ids"])) == bool(tools)
        size = len(turns.token_ids)
        assert list(turns.token_ids) == wanted["input_ids"][:size]
        mask = [0] * len(wanted["input_ids"])
        for first, stop in turns.learned:
            mask[first:stop] = [1] * (stop - first)
        assert mask == wanted["assistant_masks"]


def test_a_template_that_changes_earlier_turns_cannot_teach_all(tmp_path: Path) -> None:
    only_last = CHATML.replace("m['content']", "(m['content'] if loop.last else m['content'][:2])")
    ours, _ = chat(tmp_path, only_last)
    messages = [
        {"role": "user", "content": "fox"},
        {"role": "assistant", "content": "quick"},
        {"role": "user", "content": "no"},
        {"role": "assistant", "content": "it"},
    ]
    with pytest.raises(ConfigError):
        render_turns(ours, messages)
