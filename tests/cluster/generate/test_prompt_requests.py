"""Prompts and options on their way to the engine: nothing is lost, and lines are named."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import tokenizers
from tokenizers import models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from cluster.deploy.target_plan import PlannedModel
from cluster.generate.prompt_requests import make_submits, read_constraint
from cluster.options.generate_options import ConstraintOptions, DecodeOptions, PromptOptions
from parallel.decoding.types import ConstraintKind, ConstraintSpec
from runtime.errors import ConfigError
from runtime.models.tokenizer import Tokenizer

WORDS = ("<unk>", "user", "assistant", "tool", "says", "calls", "hi", "ann", "f", "3", "beyond")
TEMPLATE = (
    "{% for m in messages %}{{ m.role }} {% if m.name %}{{ m.name }} {% endif %}"
    "{% if m.content %}says {{ m.content }} {% endif %}"
    "{% for c in m.tool_calls or [] %}calls {{ c.function.name }} {% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}assistant{% endif %}"
)


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    inner = tokenizers.Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>")
    )
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    made = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>")
    made.chat_template = TEMPLATE
    folder = tmp_path_factory.mktemp("tokenizer")
    made.save_pretrained(folder)
    made.name_or_path = str(folder)
    return made


@pytest.fixture(scope="module")
def target(theirs: PreTrainedTokenizerFast) -> PlannedModel:
    """A model whose embedding lacks the last word."""
    return PlannedModel(
        name="toy",
        facts=None,
        tokenizer=Tokenizer.load(theirs.name_or_path),
        virtual=None,
        max_positions=8,
        vocab_size=len(WORDS) - 1,
    )


def prompt_ids(target: PlannedModel, prompts: PromptOptions) -> list[tuple[int, ...]]:
    return [submit.prompt_ids for submit in make_submits(prompts, DecodeOptions(), target)]


def test_names_and_tool_calls_of_a_prompt_file_reach_the_template(
    tmp_path: Path, target: PlannedModel, theirs: PreTrainedTokenizerFast
) -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": "{}"}}
    chats = [
        [{"role": "user", "name": "ann", "content": "hi"}],
        [{"role": "assistant", "content": None, "tool_calls": [call]}],
        [{"role": "user", "content": "hi"}, {"role": "tool", "tool_call_id": "x", "content": "3"}],
    ]
    file = tmp_path / "prompts.jsonl"
    file.write_text("\n".join(json.dumps({"messages": chat}) for chat in chats))
    expected = [
        tuple(theirs.apply_chat_template(chat, add_generation_prompt=True, return_dict=False))
        for chat in chats
    ]
    assert prompt_ids(target, PromptOptions(prompts=file)) == expected


def test_a_tool_call_that_the_template_leaves_out_is_rejected(
    tmp_path: Path, target: PlannedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": "{}"}}
    turns = [{"role": "assistant", "content": "hi", "tool_calls": [call]}]
    file = tmp_path / "prompts.jsonl"
    file.write_text(json.dumps({"messages": turns}))
    assert target.tokenizer is not None
    inner = target.tokenizer._chat._tokenizer
    monkeypatch.setattr(inner, "chat_template", TEMPLATE.replace("c.function.name", "''"))
    with pytest.raises(ConfigError, match=r"line 1: .* drops the tool call 'f' of messages\[0\]"):
        prompt_ids(target, PromptOptions(prompts=file))


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"prompt": "hi beyond"}, r"line 1: token\[1\] is 10: token ids are between 0 and 9"),
        ({"prompt": "hi " * 8}, "line 1 has 8 tokens, the context of toy holds 8: shorten"),
        ({"messages": [{"role": "user", "content": None}]}, r"line 1: messages\[0\].content is"),
    ],
)
def test_a_prompt_that_the_model_cannot_read_is_rejected_by_line(
    tmp_path: Path, target: PlannedModel, record: dict[str, object], message: str
) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text(json.dumps(record))
    with pytest.raises(ConfigError, match=message):
        prompt_ids(target, PromptOptions(prompts=file))


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("", "`prompt` has no tokens: write at least one word"),
        ("hi beyond", r"`prompt`: token\[1\] is 10"),
        ("a\udcff", "`prompt` holds half a surrogate pair"),
    ],
)
def test_a_prompt_of_the_command_line_is_rejected_by_its_flag(
    target: PlannedModel, prompt: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        prompt_ids(target, PromptOptions(prompt=prompt))


def test_biases_and_ends_reach_the_request(target: PlannedModel) -> None:
    decode = DecodeOptions(
        logit_bias=("3=1.5", "1=-2"), min_tokens=2, stop_token_ids=(4,), frequency_penalty=0.5
    )
    (submit,) = make_submits(PromptOptions(prompt="hi"), decode, target)
    assert submit.sampling.logit_bias == ((1, -2.0), (3, 1.5))
    assert (submit.sampling.min_tokens, submit.sampling.frequency_penalty) == (2, 0.5)
    assert submit.stop_token_ids == (4,)


@pytest.mark.parametrize(
    ("bias", "words"),
    [
        (("3",), r"`logit_bias`\[0\] is '3': write TOKEN=BIAS"),
        (("3=nan",), r"`logit_bias`\[0\] is '3=nan'"),
        (("-3=1",), r"`logit_bias`\[0\] is '-3=1'"),
        (("3=1", "3=2"), "`logit_bias` has the token 3 twice"),
        (("3=101",), r"`logit_bias\[3\]` is 101.0: it must be between -100 and 100"),
    ],
)
def test_a_bias_that_cannot_be_used_is_rejected(
    target: PlannedModel, bias: tuple[str, ...], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        make_submits(PromptOptions(prompt="hi"), DecodeOptions(logit_bias=bias), target)


def test_each_option_of_a_constraint_is_read_and_its_file_too(tmp_path: Path) -> None:
    schema, grammar = tmp_path / "s.json", tmp_path / "g.lark"
    schema.write_text('{"type": "array"}', encoding="utf-8")
    grammar.write_text('start: "a"', encoding="utf-8")
    expected = {
        ConstraintOptions(): None,
        ConstraintOptions(json_schema=schema): (ConstraintKind.JSON_SCHEMA, '{"type": "array"}'),
        ConstraintOptions(json_object=True): (ConstraintKind.JSON_OBJECT, ""),
        ConstraintOptions(regex="a+"): (ConstraintKind.REGEX, "a+"),
        ConstraintOptions(regex="b", align=True): (ConstraintKind.REGEX, "b"),
        ConstraintOptions(regex="c", close=True): (ConstraintKind.REGEX, "c"),
        ConstraintOptions(grammar=grammar): (ConstraintKind.GRAMMAR, 'start: "a"'),
    }
    for options, found in expected.items():
        spec = None
        if found is not None:
            spec = ConstraintSpec(
                kind=found[0], text=found[1], align=options.align, close=options.close
            )
        assert read_constraint(options) == spec
    choice = read_constraint(ConstraintOptions(choice=("yes", "no")))
    assert choice == ConstraintSpec(kind=ConstraintKind.CHOICE, choices=("yes", "no"))


def test_every_request_has_the_constraint(target: PlannedModel) -> None:
    spec = ConstraintSpec(kind=ConstraintKind.REGEX, text="a")
    prompts = PromptOptions(prompt="hi")
    (submit,) = make_submits(prompts, DecodeOptions(), target, spec)
    assert submit.sampling.constraint == spec
    aligned = replace(spec, align=True)
    (submit,) = make_submits(prompts, DecodeOptions(temperature=1.0), target, aligned)
    assert submit.sampling.constraint == aligned
    with pytest.raises(ConfigError, match="`align` is about samples: set `temperature`"):
        make_submits(prompts, DecodeOptions(), target, aligned)
    with pytest.raises(ConfigError, match="`ignore_eos` continues after the end"):
        make_submits(prompts, DecodeOptions(ignore_eos=True), target, spec)
