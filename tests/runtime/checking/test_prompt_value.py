"""Prompts and conversations: taken as they are, or rejected by position and key."""

import subprocess
import sys
from array import array

import numpy as np
import pytest
import torch
from transformers import BatchEncoding

from runtime.checking.chat_messages import messages
from runtime.checking.prompt_value import prompt, token_ids
from runtime.errors import InvalidValue

IDS = (1, 5, 7)
USER = {"role": "user", "content": "hi"}


@pytest.mark.parametrize(
    "value",
    [
        [1, np.int64(5), 7],
        (1, 5, torch.tensor(7)),
        np.array([1, 5, 7]),
        np.array([[1, 5, 7]], dtype=np.int32),
        torch.tensor([1, 5, 7]),
        torch.tensor([[1, 5, 7]]),
        array("i", [1, 5, 7]),
        [[1, 5, 7]],
        (one for one in IDS),
        {"input_ids": [1, 5, 7], "attention_mask": [1, 1, 1]},
        {"input_ids": torch.tensor([[1, 5, 7]]), "attention_mask": torch.ones(1, 3).long()},
        BatchEncoding({"input_ids": [[1, 5, 7]], "token_type_ids": [[0, 0, 0]]}),
    ],
)
def test_token_ids_of_every_library_are_the_same_prompt(value: object) -> None:
    assert prompt(value) == IDS


def test_a_range_is_a_prompt() -> None:
    assert prompt(range(3)) == (0, 1, 2)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1, True], r"prompt\[1\] is True: it must be an integer"),
        ([1, 2.0], r"prompt\[1\] is 2.0 \(float\): it must be an integer"),
        (np.array([1.0, 2.0]), r"prompt\[0\] is 1.0"),
        ([1, None], r"prompt\[1\] is None"),
        ([1, "a"], r"prompt\[1\] is 'a' \(str\): a list holds either token ids or messages"),
        (["a b"], r"prompt\[0\] is 'a b'"),
        ([object()], r"prompt\[0\] is <object"),
        ([1, -2], r"prompt\[1\] is -2: token ids are between 0 and"),
        ([2**31], r"prompt\[0\] is 2147483648: token ids are between 0 and"),
        ([1, [2]], r"prompt\[1\] is \[2\]"),
        ([[1], [2]], "prompt is a batch of 2 prompts"),
        (torch.tensor([[1], [2]]), "prompt is a batch of 2 prompts"),
        (torch.tensor(3), r"prompt is tensor\(3\) \(Tensor\): it must be a list"),
        ([], "prompt is empty"),
        ("", "prompt is empty"),
        (np.array([], dtype=np.int64), "prompt is empty"),
        ([[]], r"prompt\[0\] is empty"),
        (None, "prompt is None"),
        (5, "prompt is 5"),
        (b"hello", "prompt is b'hello'"),
        ({1, 2}, "prompt is {1, 2}"),
        ("a\udfff", "prompt holds half a surrogate pair at character 1"),
        (USER, "prompt has role, content: write a list of messages"),
        ([1, USER], r"prompt\[0\] is 1: a message is an object"),
        ([USER, "text"], r"prompt\[1\] is 'text' \(str\): a message is an object"),
        ({"input_ids": [0, 5], "attention_mask": [0, 1]}, "attention_mask masks tokens"),
        ({"input_ids": [5], "pixel_values": [1.0]}, "prompt.pixel_values is not supported"),
        ({"input_ids": [5, "x"]}, r"prompt.input_ids\[1\] is 'x'"),
    ],
)
def test_what_is_no_prompt_is_rejected_with_its_position(value: object, message: str) -> None:
    with pytest.raises(InvalidValue, match=f"^{message}|{message}"):
        prompt(value)


def test_a_token_beyond_the_embedding_is_rejected() -> None:
    assert token_ids([9], "token_ids", vocab_size=10) == (9,)
    with pytest.raises(InvalidValue, match=r"token_ids\[1\] is 10: token ids are between 0 and 9"):
        token_ids([3, 10], "token_ids", vocab_size=10)


def test_text_parts_are_their_text() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert messages([{"role": "user", "content": parts}]) == ({"role": "user", "content": "ab"},)


def test_keys_that_the_caller_passes_on_are_kept_and_none_counts_as_absent() -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": "{}"}}
    given = [
        USER | {"name": "ann", "tool_calls": None},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "3", "tool_call_id": "x"},
    ]
    assert messages(given) == (
        USER | {"name": "ann"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "3", "tool_call_id": "x"},
    )
    with pytest.raises(InvalidValue, match=r"messages\[0\].name is not supported here: remove it"):
        messages(given, extra_keys=())


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "messages is empty"),
        ("hi", "messages is 'hi'"),
        (None, "messages is None"),
        (["hi"], r"messages\[0\] is 'hi' \(str\): a message is an object"),
        ([{"content": "a"}], r"messages\[0\] has no role: it has content"),
        ([{"role": "user"}], r"messages\[0\] has no content: it has role"),
        ([USER | {"content": None}], r"messages\[0\].content is None: write a string"),
        ([USER, USER | {"content": 3}], r"messages\[1\].content is 3: it must be a string"),
        ([USER | {"content": "\ud800"}], r"messages\[0\].content holds half a surrogate"),
        ([USER | {"content": ""}], "messages has no text"),
        ([USER | {"content": []}], "messages has no text"),
        ([USER | {"content": ["a"]}], r"messages\[0\].content\[0\] is of type 'a' \(str\)"),
        (
            [USER | {"content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
            r"messages\[0\].content\[0\] is of type 'image_url' \(str\): only",
        ),
        (
            [USER | {"content": [{"type": "text", "text": "a", "cache_control": {}}]}],
            r"content\[0\].cache_control is not supported",
        ),
        ([USER | {"content": [{"type": "text"}]}], r"content\[0\] has no text"),
        ([USER | {"content": [{"type": "text", "text": 1}]}], r"content\[0\].text is 1"),
        ([USER | {"role": "User"}], r"messages\[0\].role is 'User': write one of system"),
        ([USER | {"role": 3}], r"messages\[0\].role is 3: it must be a string"),
        ([USER | {"weight": 0}], r"messages\[0\].weight is not supported here"),
        ([USER | {"name": 3}], r"messages\[0\].name is 3: it must be a string"),
        ([USER | {"tool_calls": "f"}], r"messages\[0\].tool_calls is 'f'"),
        ([USER | {"tool_calls": ["f"]}], r"messages\[0\].tool_calls\[0\] is 'f'"),
        ([USER | {"tool_calls": [{"function": "f"}]}], r"tool_calls\[0\] has no function.name"),
    ],
)
def test_what_is_no_conversation_is_rejected_with_message_and_key(
    value: object, message: str
) -> None:
    with pytest.raises(InvalidValue, match=message):
        messages(value)


def test_the_checks_import_no_heavy_library() -> None:
    code = (
        "import sys, runtime.checking.prompt_value; "
        "print(sorted({'torch', 'ray', 'grpc', 'numpy', 'google'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
