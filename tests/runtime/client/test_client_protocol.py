"""What Python callers give reaches the wire as it is, or is rejected by name before it is sent."""

from typing import Any

import numpy as np
import pytest
import torch

from protos.paceline.v1 import link_pb2
from protos.paceline.v1 import service_pb2 as pb
from runtime.checking.sampling_fields import Sampling
from runtime.client.client_patience import ClientPatience
from runtime.client.client_protocol import progress_of, wire_request
from runtime.errors import InvalidValue
from runtime.service.incoming import read_request, sampling_of

NAN = float("nan")


def wire(prompt: Any = "hi", **fields: Any) -> pb.GenerateRequest:
    return wire_request(prompt, Sampling(**fields), "r")


def test_every_kind_of_prompt_reaches_the_wire_whole() -> None:
    assert wire("hi").text == "hi"
    for ids in ([1, np.int64(5), 7], np.array([1, 5, 7]), torch.tensor([[1, 5, 7]])):
        assert list(wire(ids).token_ids.ids) == [1, 5, 7]
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    turns = [{"role": "system", "content": "s"}, {"role": "user", "content": parts, "name": None}]
    assert wire(turns).chat == pb.Chat(
        messages=[
            pb.ChatMessage(role="system", content="s"),
            pb.ChatMessage(role="user", content="ab"),
        ]
    )


def test_values_of_other_libraries_reach_the_wire_as_they_are() -> None:
    request = wire(
        max_tokens=np.int32(9),
        temperature=np.float64(0.5),
        top_k=torch.tensor(4),
        top_p=torch.tensor(0.25),
        seed=np.uint64(2**64 - 1),
        n=np.int8(2),
        stop="abc",
        ignore_eos=np.True_,
        mode="pearl",
        priority=np.int16(-3),
    )
    assert request == pb.GenerateRequest(
        text="hi",
        max_tokens=9,
        temperature=0.5,
        top_k=4,
        top_p=0.25,
        seed=2**64 - 1,
        n=2,
        stop=["abc"],
        ignore_eos=True,
        mode=link_pb2.DECODE_MODE_PEARL,
        priority=-3,
        request_id="r",
    )


def test_absent_values_stay_absent() -> None:
    assert wire(stop=None) == pb.GenerateRequest(text="hi", request_id="r")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_tokens": 0}, "`max_tokens` is 0: it must be between 1 and"),
        ({"max_tokens": -1}, "`max_tokens` is -1"),
        ({"max_tokens": 2**40}, "`max_tokens` is 1099511627776"),
        ({"max_tokens": "10"}, r"`max_tokens` is '10' \(str\): it must be an integer"),
        ({"max_tokens": 10.0}, r"`max_tokens` is 10.0 \(float\): it must be an integer"),
        ({"max_tokens": True}, "`max_tokens` is True: it must be an integer"),
        ({"temperature": -1}, "`temperature` is -1.0: it must be 0"),
        ({"temperature": NAN}, "`temperature` is nan"),
        ({"temperature": "1"}, r"`temperature` is '1' \(str\): it must be a number"),
        ({"temperature": True}, "`temperature` is True: it must be a number"),
        ({"top_k": -1}, "`top_k` is -1"),
        ({"top_k": 2.5}, "`top_k` is 2.5"),
        ({"top_p": 0}, "`top_p` is 0.0: it must be above 0"),
        ({"top_p": float("inf")}, "`top_p` is inf"),
        ({"min_p": 1.5}, "`min_p` is 1.5"),
        ({"repetition_penalty": 0}, "`repetition_penalty` is 0.0"),
        ({"presence_penalty": 2.5}, "`presence_penalty` is 2.5: it must be between -2 and 2"),
        ({"frequency_penalty": "1"}, "`frequency_penalty` is '1'"),
        ({"logit_bias": [1]}, r"`logit_bias` is \[1\]"),
        ({"logit_bias": {1: 101}}, r"`logit_bias`\[1\] is 101"),
        ({"logit_bias": {-1: 1}}, "a token of `logit_bias` is -1"),
        ({"logit_bias": dict.fromkeys(range(1025), 1)}, "`logit_bias` has 1025 tokens"),
        ({"stop_token_ids": [-1]}, r"`stop_token_ids`\[0\] is -1"),
        ({"stop_token_ids": range(65)}, "`stop_token_ids` has 65 tokens: 64 at most"),
        ({"min_tokens": -1}, "`min_tokens` is -1"),
        ({"min_tokens": 5, "max_tokens": 4}, "`min_tokens` is 5, above `max_tokens` 4"),
        ({"seed": -1}, "`seed` is -1: it must be between 0 and 18446744073709551615"),
        ({"seed": 2**64}, "`seed` is 18446744073709551616"),
        ({"seed": 10**5000}, r"`seed` is 2\*\*16609 or more"),
        ({"stop": ["a", 3]}, r"`stop`\[1\] is 3: it must be a string"),
        ({"stop": [""]}, r"`stop`\[0\] is empty"),
        ({"stop": ""}, r"`stop`\[0\] is empty"),
        ({"stop": b"a"}, "`stop` is b'a'"),
        ({"stop": ["a"] * 17}, "`stop` has 17 strings: 16 at most"),
        ({"ignore_eos": "no"}, r"`ignore_eos` is 'no' \(str\): it must be True or False"),
        ({"mode": "fast"}, "`mode` is 'fast': choose one of autoregressive"),
        ({"mode": 1}, "`mode` is 1: it must be a string"),
        ({"n": 17, "temperature": 1}, "`n` is 17: it must be between 1 and 16"),
        ({"n": 2}, "`n` is 2 at temperature 0, where all samples are equal"),
        ({"logprobs": True}, "`logprobs` is True"),
        ({"logprobs": 21}, "`logprobs` is 21"),
        ({"priority": 101}, "`priority` is 101"),
        ({"priority": None}, "`priority` is None"),
    ],
)
def test_a_value_that_cannot_be_used_is_rejected_by_its_field(
    fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidValue, match=f"^{message}"):
        wire(**fields)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("", "prompt is empty"),
        ("a\ud800", "prompt holds half a surrogate pair"),
        ([5, -1], r"prompt\[1\] is -1: token ids are between 0 and"),
        ([1, "x", object()], r"prompt\[1\] is 'x'"),
        ([{"role": "user", "content": None}], r"prompt\[0\].content is None"),
        (
            [{"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}],
            r"prompt\[0\].tool_calls is not supported here",
        ),
        ([{"role": "user", "content": "a", "name": "x"}], r"prompt\[0\].name is not supported"),
    ],
)
def test_a_prompt_that_cannot_be_sent_whole_is_rejected(prompt: Any, message: str) -> None:
    with pytest.raises(InvalidValue, match=f"^{message}"):
        wire(prompt)


@pytest.mark.parametrize(
    ("request_id", "timeout_s", "message"),
    [
        ("x" * 129, None, "`request_id` has 129 characters"),
        ("a\nb", None, "`request_id` is 'a"),
        (7, None, "`request_id` is 7: it must be a string"),
        ("r", "5", "`timeout_s` is '5'"),
        ("r", NAN, "`timeout_s` is nan"),
        ("r", -1, "`timeout_s` is -1: it must be between 0 and 31536000"),
        ("r", 1e10, "`timeout_s` is 10000000000.0"),
    ],
)
def test_names_and_times_are_checked_too(request_id: Any, timeout_s: Any, message: str) -> None:
    with pytest.raises(InvalidValue, match=message):
        progress_of(
            "hi",
            Sampling(),
            request_id=request_id,
            timeout_s=timeout_s,
            patience=ClientPatience("here", 0),
        )


def test_the_server_reads_what_the_client_wrote_by_the_same_checks() -> None:
    asked = Sampling(
        max_tokens=3, temperature=0.5, top_k=0, stop=("a",), mode="auto", n=2, logprobs=0
    )
    assert sampling_of(wire_request("hi", asked, None)) == asked.checked()


@pytest.mark.parametrize(
    "fields",
    [
        {"json_schema": {"type": "array"}},
        {"json_object": True},
        {"regex": "a+"},
        {"grammar": "start: x"},
        {"choice": ["yes", "no"]},
        {"regex": "a", "align": True, "temperature": 1.0},
        {"regex": "a", "close": True},
        {},
    ],
)
def test_every_constraint_reaches_the_server(fields: dict[str, Any]) -> None:
    wire = wire_request("hi", Sampling(**fields), None)
    expected = Sampling(**fields).constraint
    assert wire.HasField("constraint") == (expected is not None)
    assert read_request(wire).sampling.constraint == expected


@pytest.mark.parametrize(
    ("constraint", "message"),
    [
        (
            link_pb2.Constraint(kind="poem"),
            "`constraint.kind` is 'poem': choose one of json_schema",
        ),
        (link_pb2.Constraint(kind="choice"), "`constraint.choices` is empty"),
        (link_pb2.Constraint(kind="regex"), "`regex` is empty"),
        (link_pb2.Constraint(kind="json_object", text="x"), "`constraint.text` is not read"),
        (link_pb2.Constraint(kind="choice", text="x", choices=["a"]), "`constraint.text` is not"),
        (link_pb2.Constraint(kind="regex", text="x", choices=["a"]), "`constraint.choices` is not"),
    ],
)
def test_a_constraint_that_says_nothing_or_too_much_is_rejected(
    constraint: link_pb2.Constraint, message: str
) -> None:
    request = pb.GenerateRequest(text="hi", constraint=constraint)
    with pytest.raises(InvalidValue, match=message):
        read_request(request)
