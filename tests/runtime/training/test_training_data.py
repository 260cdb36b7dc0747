"""Records become samples, or are rejected with their line."""

import copy
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from runtime.checking.prompt_files import read_prompts
from runtime.errors import ConfigError
from runtime.models.tokenizer import Tokenizer
from runtime.training.job.job_config import DataConfig
from runtime.training.training_data import (
    Sample,
    TextExample,
    digest_of,
    read_examples,
    render,
    tokenize,
)
from tests.support.models import smollm2_directory
from tests.support.rejection import rejected


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.load(smollm2_directory())


def examples_of(
    tmp_path: Path, tokenizer: Tokenizer, *records: Mapping[str, object], **settings: object
) -> list[str]:
    file = tmp_path / "data.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    config = DataConfig(**settings)  # type: ignore[arg-type]  # a test names real fields
    return [
        render(example, tokenize(example, tokenizer, config.max_length), tokenizer)
        for example in read_examples(file, config, tokenizer)
    ]


def test_every_format_learns_completions_only(tmp_path: Path, tokenizer: Tokenizer) -> None:
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello there"}]
    shown = examples_of(
        tmp_path,
        tokenizer,
        {"prompt": "One and two", "completion": " are three"},
        {"text": "Once upon a time"},
        {"messages": chat},
    )
    assert shown[0] == "One and two⟦ are three⟧"
    assert shown[1] == "Once⟦ upon a time⟧"
    assert shown[2].endswith("assistant\n⟦Hello there⟧")
    assert "user\nHi" in shown[2]


def test_an_answer_ends_as_the_chat_template_ends_it(tokenizer: Tokenizer, tmp_path: Path) -> None:
    several = copy.copy(tokenizer)
    several.eos_ids = tokenizer.eos_ids | {0}  # the lowest id is not what ends a text
    end = tokenizer.eos_id
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "Bye"},
        {"role": "assistant", "content": "See you"},
    ]
    file = tmp_path / "data.jsonl"
    file.write_text(json.dumps({"messages": messages}) + "\n" + '{"text": "fine"}\n')
    examples = read_examples(file, DataConfig(), several)
    chat, text = (tokenize(example, several, 256) for example in examples)
    learned = chat.token_ids[chat.num_prompt :]
    assert learned == (*tokenizer.encode("See you", whole=False), end)
    assert text.token_ids[-1] == end


def test_a_line_ends_where_it_says_so(tokenizer: Tokenizer, tmp_path: Path) -> None:
    file = tmp_path / "data.jsonl"
    file.write_text('{"text": "one\u2028two\x85three"}\r\n\n{"text": "four"}', newline="")
    assert len(read_examples(file, DataConfig(), tokenizer)) == 2


def test_fields_become_prompts_and_numbers_words(tmp_path: Path, tokenizer: Tokenizer) -> None:
    shown = examples_of(
        tmp_path,
        tokenizer,
        {"text": "a fine film", "label": 1},
        prompt="Review: {text}\nIt is",
        completion=" {label}",
        words={"label": ["bad", "good"]},
    )
    assert shown == ["Review: a fine film\nIt is⟦ good⟧   (of ' bad', ' good')"]


LONG = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "Bye"},
    {"role": "assistant", "content": "See you"},
]


def test_all_turns_are_learned_if_asked_for(tmp_path: Path, tokenizer: Tokenizer) -> None:
    share = [
        {"from": {"user": "human", "assistant": "gpt"}[turn["role"]], "value": turn["content"]}
        for turn in LONG
    ]
    file = tmp_path / "data.jsonl"
    records = [{"messages": LONG}, {"conversations": share}, {"messages": LONG[:2]}]
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    every, last = (
        [
            tokenize(example, tokenizer, 256)
            for example in read_examples(file, DataConfig(learn=learn), tokenizer)
        ]
        for learn in ("all", "last")
    )
    turns = [tokenizer.decode(every[0].token_ids[first:stop]) for first, stop in every[0].parts]
    assert turns == ["Hello", "See you"]
    assert every[0].token_ids == last[0].token_ids
    assert every[0].num_loss_tokens == len(every[0].learned_positions) == 5
    assert every[1] == every[0]
    assert every[2] == last[2]
    assert digest_of(every[:1]) != digest_of(last[:1])


def test_a_long_conversation_loses_its_start(tmp_path: Path, tokenizer: Tokenizer) -> None:
    file = tmp_path / "data.jsonl"
    file.write_text(json.dumps({"messages": LONG}))
    (example,) = read_examples(file, DataConfig(learn="all"), tokenizer)
    whole = tokenize(example, tokenizer, 256)
    for size in range(2, len(whole.token_ids)):
        cut = tokenize(example, tokenizer, size)
        last = whole.token_ids[: min(len(whole.token_ids), whole.parts[-1][0] + size - 1)]
        assert cut.token_ids == last[-size:]
        assert cut.num_cut == len(whole.token_ids) - size
        shift = len(last) - size
        wanted = [old - shift for old in whole.learned_positions if 0 < old - shift < size]
        assert cut.learned_positions == wanted


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        (LONG[1:], r"messages\[0\] is of the assistant, with nothing before it to answer"),
        ([LONG[0], LONG[1] | {"content": ""}, *LONG[2:]], r"messages\[1\].content is empty"),
    ],
)
def test_a_turn_that_cannot_be_learned_is_rejected_where_all_are(
    tmp_path: Path, tokenizer: Tokenizer, turns: object, message: str
) -> None:
    examples_of(tmp_path, tokenizer, {"messages": turns}, learn="last")
    with rejected(f"line 1: {message}"):
        examples_of(tmp_path, tokenizer, {"messages": turns}, learn="all")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "line 2: label is 2: data.words has words for 0 to 1"),
        ({"prompt": "It says {body}:"}, "line 1: no field 'body'; the record has text, label"),
        ({"prompt": "{text"}, r"data.prompt is '\{text': expected '}' before end of string"),
        ({"completion": "{}"}, "data.completion is '{}': name a record's fields"),
        ({"learn": "all"}, 'data.learn is "all", for conversations: leave it out'),
    ],
)
def test_bad_templates_and_words_are_rejected(
    tmp_path: Path, tokenizer: Tokenizer, settings: dict[str, str], message: str
) -> None:
    records = [{"text": "fine", "label": 1}, {"text": "odd", "label": 2}]
    whole = {"prompt": "{text}", "completion": "{label}", "words": {"label": ["bad", "good"]}}
    with rejected(message):
        examples_of(tmp_path, tokenizer, *records, **(whole | settings))


TURNS: list[dict[str, object]] = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello"},
]


TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"text": ""}, "line 2: text is empty"),
        ({"prompt": "x", "completion": " "}, "line 2: completion is empty"),
        ({"messages": [{"role": "user"}]}, r"line 2: messages\[0\] has no content: it has role"),
        ({"body": "x"}, "line 2: no field 'text'; the record has body"),
        ({"prompt": "x", "completion": 3}, "line 2: completion is 3: it must be a string"),
        ({"messages": []}, "line 2: messages is empty"),
        ({"messages": [{"role": "user", "content": "x"}]}, "line 2: messages must end with one"),
        ({"text": ["yes"]}, r"line 2: text is \['yes'\] \(list\): it must be a string"),
        ({"text": True}, "line 2: text is True: it must be a string"),
        ({"text": None}, "line 2: text is None: it must be a string"),
        ({"text": "half \ud83d"}, "line 2: a string holds half a surrogate pair"),
        ({"prompt": ["a"], "completion": "b"}, r"line 2: prompt is \['a'\] \(list\)"),
        ({"prompt": None, "completion": "b"}, "line 2: prompt is None"),
        ({"prompt": "a", "answer": "b"}, "no field 'completion'; the record has prompt, answer"),
        ({"text": "a", "completion": "b"}, "the record has completion and text: keep one of them"),
        ({"text": "a", "messages": TURNS}, "the record has messages and text: keep one of them"),
        (
            {"messages": TURNS, "tools": [{}]},
            r"line 2: tools\[0\] is {} .* needs type and function",
        ),
        ({"messages": TURNS, "tools": "["}, "line 2: tools is a string that is not JSON"),
        ({"messages": TURNS, "tools": "look"}, "line 2: tools is a string that is not JSON"),
        ({"messages": TURNS, "tools": '"look"'}, "line 2: tools is 'look' .*a list of tools"),
        ({"text": "x", "tools": [TOOL]}, "line 2: tools is not supported in a record"),
        (
            {"messages": TURNS, "tools": [TOOL]},
            "line 2: the chat template .* drops the tool 'look'",
        ),
        ({"messages": TURNS, "system": "Be brief."}, "line 2: system is not supported"),
        ({"messages": [TURNS[0], TURNS[1] | {"weight": 0}]}, r"messages\[1\].weight is not supp"),
        ({"messages": [TURNS[0] | {"images": [1]}, TURNS[1]]}, r"messages\[0\].images is not supp"),
        ({"messages": [TURNS[0] | {"name": 3}, TURNS[1]]}, r"messages\[0\].name is 3: it must be"),
        ({"messages": [TURNS[0], TURNS[1] | {"content": None}]}, r"messages\[1\].content is None"),
        ({"messages": [TURNS[0], TURNS[1] | {"content": ""}]}, r"messages\[1\].content is empty"),
        ({"messages": [TURNS[0], TURNS[1] | {"role": "model"}]}, r"messages\[1\].role is 'model'"),
        ({"messages": {"role": "user"}}, "messages is .*dict.*: it must be a list of messages"),
    ],
)
def test_a_bad_record_is_rejected_with_its_line(
    tmp_path: Path, tokenizer: Tokenizer, record: Mapping[str, object], message: str
) -> None:
    with rejected(message):
        examples_of(tmp_path, tokenizer, {"text": "fine"}, record)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("yes", "It is⟦ yes⟧"),
        (3, "It is⟦ 3⟧"),
        (0.5, "It is⟦ 0.5⟧"),
        (["yes"], None),
        (True, None),
        (None, None),
        ({"a": 1}, None),
        ("", None),
    ],
)
def test_a_template_takes_strings_and_numbers_alone(
    tmp_path: Path, tokenizer: Tokenizer, value: object, shown: str | None
) -> None:
    records: list[dict[str, object]] = [
        {"answer": "fine"},
        {"answer": value, "other": [True, None]},
    ]
    templates = {"prompt": "It is", "completion": " {answer}"}
    if shown is None:
        with pytest.raises(ConfigError, match=r"line 2: (answer is|the completion is empty)"):
            examples_of(tmp_path, tokenizer, *records, **templates)
    else:
        assert examples_of(tmp_path, tokenizer, *records, **templates)[1] == shown


@pytest.mark.parametrize("value", [True, "one", 1.0, -1, ["1"], None, "\u0660"])
def test_a_word_means_a_whole_number(tmp_path: Path, tokenizer: Tokenizer, value: object) -> None:
    settings = {
        "prompt": "It is",
        "completion": " {label}",
        "words": {"label": ["bad", "good"]},
    }
    with pytest.raises(ConfigError, match=r"`data\.words` has words for 0 to 1"):
        examples_of(tmp_path, tokenizer, {"label": value}, **settings)
    shown = examples_of(tmp_path, tokenizer, {"label": "1"}, {"label": 0}, **settings)
    assert [one.partition("   ")[0] for one in shown] == ["It is⟦ good⟧", "It is⟦ bad⟧"]


def test_choices_are_found_whatever_the_template_does_with_them(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    (shown,) = examples_of(
        tmp_path,
        tokenizer,
        {"label": 0},
        prompt="It is",
        completion=" {label:>4}",
        words={"label": ["bad", "good"]},
    )
    assert shown == "It is⟦  bad⟧   (of '  bad', ' good')"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "a", "text": "b"}', "line 2: .*'text' .* twice"),
        ('{"text": ' + "[" * 100_000, "line 2: .*nest"),
        ('{"text": "a", "id": ' + "7" * 5000 + "}", "line 2: .*digits"),
        ('{"text": "a", "id": 1e999}', "line 2: .*too large"),
        ("[1]", "line 2: .*JSON object"),
        ('{"text": }', "line 2: not JSON"),
    ],
)
def test_a_line_that_is_no_plain_object_is_rejected(
    tmp_path: Path, tokenizer: Tokenizer, line: str, message: str
) -> None:
    file = tmp_path / "data.jsonl"
    file.write_text('{"text": "fine"}\n' + line, encoding="utf-8-sig")
    with rejected(message):
        read_examples(file, DataConfig(), tokenizer)


@pytest.mark.parametrize(
    ("fields", "refused"),
    [
        ({"name": "ann"}, False),
        ({"name": None, "tool_call_id": "7", "reasoning_content": "so"}, False),
        ({"tool_calls": [{"type": "function", "function": {"name": "f"}}]}, False),
        ({"content": [{"type": "text", "text": "Hi"}]}, False),
        ({"content": [{"type": "image", "url": "x"}]}, True),
        ({"content": ["Hi"]}, True),
        ({"content": 3}, True),
        ({"role": "bot"}, True),
        ({"name": ["ann"]}, True),
        ({"tool_calls": "f()"}, True),
        ({"tool_calls": ["f()"]}, True),
        ({"weight": 1}, True),
        ({"images": ["x"]}, True),
    ],
)
@pytest.mark.parametrize("beside", [{}, {"id": 7, "tools": []}, {"tools": [1]}, {"system": "x"}])
def test_prompt_files_and_training_take_the_same_messages(
    tmp_path: Path,
    tokenizer: Tokenizer,
    fields: dict[str, object],
    beside: dict[str, object],
    refused: bool,
) -> None:
    first = {"role": "user", "content": "Hi"} | fields
    file = tmp_path / "data.jsonl"
    file.write_text(json.dumps({"messages": [first, TURNS[1]]} | beside))
    if beside.get("tools") and not refused:  # training takes tools, which prompt files do not
        with rejected(r"line 1: tools\[0\] is 1"):
            read_examples(file, DataConfig(), tokenizer)
        with rejected("line 1: tools is not supported in a record"):
            read_prompts(file)
    elif beside.get("tools"):
        for read in (
            lambda: read_examples(file, DataConfig(), tokenizer),
            lambda: read_prompts(file),
        ):
            with rejected("line 1: "):
                read()
    elif refused or "system" in beside:
        with pytest.raises(ConfigError, match="line 1: ") as of_training:
            read_examples(file, DataConfig(), tokenizer)
        with pytest.raises(ConfigError, match="line 1: ") as of_prompts:
            read_prompts(file)
        assert str(of_training.value) == str(of_prompts.value)
    else:
        read_examples(file, DataConfig(), tokenizer)
        (record,) = read_prompts(file)
        wanted = {key: value for key, value in first.items() if value is not None}
        wanted["content"] = "Hi"
        assert record.messages is not None
        assert record.messages[0] == wanted


def test_data_have_a_digest_of_what_is_learned(tokenizer: Tokenizer) -> None:
    def digest(*texts: str) -> str:
        return digest_of([tokenize(TextExample("", text), tokenizer, 9) for text in texts])

    assert digest("one two", "three") == digest("one two", "three")
    others = [digest("one two", "four"), digest("three", "one two"), digest("one two")]
    assert digest("one two", "three") not in others


def test_long_prompts_lose_their_start(tmp_path: Path, tokenizer: Tokenizer) -> None:
    record = {"prompt": "word " * 100 + "end", "completion": " done"}
    (shown,) = examples_of(tmp_path, tokenizer, record, max_length=8)
    assert shown.endswith("end⟦ done⟧")
    assert len(shown) < 60


def preferences_of(
    tmp_path: Path, tokenizer: Tokenizer, *records: Mapping[str, object], **settings: object
) -> list[Sample]:
    file = tmp_path / "data.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    config = DataConfig(**settings)  # type: ignore[arg-type]  # a test names real fields
    examples = read_examples(file, config, tokenizer, prefers=True)
    return [tokenize(example, tokenizer, config.max_length) for example in examples]


def test_a_preference_is_two_answers_after_one_prompt(tmp_path: Path, tokenizer: Tokenizer) -> None:
    chat = {"prompt": TURNS[:1], "chosen": TURNS[1:], "rejected": [TURNS[1] | {"content": "No"}]}
    texts = {"prompt": "One and", "chosen": " two", "rejected": " nine of them"}
    found = preferences_of(tmp_path, tokenizer, chat, texts)
    for sample, record, good, bad in zip(
        found, (chat, texts), ("Hello", " two"), ("No", " nine of them"), strict=True
    ):
        assert sample.rejected is not None
        shared = sample.num_prompt
        assert sample.rejected.token_ids[:shared] == sample.token_ids[:shared], record
        assert tokenizer.decode(sample.token_ids[shared:]) == good
        assert tokenizer.decode(sample.rejected.token_ids[shared:]) == bad
        assert {one.token_ids[-1] for one in sample.answers} == {tokenizer.eos_id}
    turned = replace(found[1], rejected=found[0].rejected)
    assert digest_of(found[1:]) != digest_of([turned])


def test_fields_become_the_answers_of_a_preference(tmp_path: Path, tokenizer: Tokenizer) -> None:
    templates = {"prompt": "Q: {q}", "completion": " {good}", "rejected": " {bad}"}
    record = {"q": "two", "good": "yes", "bad": "no"}
    (sample,) = preferences_of(tmp_path, tokenizer, record, **templates)
    assert [tokenizer.decode(one.token_ids) for one in sample.answers] == [
        "Q: two yes",
        "Q: two no",
    ]
    with rejected("line 1: both completions are the same"):
        preferences_of(tmp_path, tokenizer, record | {"bad": "yes"}, **templates)


def test_a_long_preference_loses_the_same_start_of_both_prompts(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    record = {"prompt": "word " * 50 + "end", "chosen": " a b", "rejected": " a b c d e f"}
    (whole,) = preferences_of(tmp_path, tokenizer, record)
    (cut,) = preferences_of(tmp_path, tokenizer, record, max_length=12)
    assert whole.rejected is not None
    assert cut.rejected is not None
    assert len(cut.rejected.token_ids) == 12
    assert cut.num_cut == len(whole.rejected.token_ids) - 12
    assert cut.num_prompt == cut.rejected.num_prompt
    assert cut.token_ids[: cut.num_prompt] == cut.rejected.token_ids[: cut.num_prompt]
    for short, long in zip(cut.answers, whole.answers, strict=True):
        assert short.token_ids == long.token_ids[-len(short.token_ids) :]
    with rejected("the first 2 tokens of the chosen and the rejected answer are the same"):
        preferences_of(tmp_path, tokenizer, record, max_length=3)


def test_a_preference_is_shown_with_both_answers(tmp_path: Path, tokenizer: Tokenizer) -> None:
    file = tmp_path / "data.jsonl"
    file.write_text('{"prompt": "One and", "chosen": " two", "rejected": " nine"}')
    (example,) = read_examples(file, DataConfig(), tokenizer, prefers=True)
    shown = render(example, tokenize(example, tokenizer, 99), tokenizer)
    assert shown == "One and⟦ two⟧   (rather than ⟦ nine⟧)"


def test_preferences_and_completions_are_not_taken_for_one_another(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    with rejected('line 1: the record is a preference, .*: set objective to "dpo"'):
        examples_of(tmp_path, tokenizer, {"prompt": "x", "chosen": "a", "rejected": "b"})
    with rejected("line 1: no field 'chosen'; the record has prompt, completion"):
        preferences_of(tmp_path, tokenizer, {"prompt": "x", "completion": "a"})


@pytest.fixture(scope="module")
def with_tools(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """The tokenizer, with a chat template that renders tools."""
    directory = tmp_path_factory.mktemp("tools")
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        (directory / name).write_text((smollm2_directory() / name).read_text())
    settings = json.loads((directory / "tokenizer_config.json").read_text())
    own = (
        settings.pop("chat_template", None)
        or (smollm2_directory() / "chat_template.jinja").read_text()
    )
    tools = "{% if tools %}Tools: {{ tools | tojson }}\n{% endif %}"
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    (directory / "chat_template.jinja").write_text(tools + own)
    return Tokenizer.load(directory)


@pytest.mark.parametrize("learn", ["last", "all"])
def test_tools_beside_messages_are_in_the_prompt(
    tmp_path: Path, with_tools: Tokenizer, learn: str
) -> None:
    shown = [
        examples_of(tmp_path, with_tools, {"messages": LONG, "tools": tools}, learn=learn)[0]
        for tools in ([TOOL], json.dumps([TOOL]), None)
    ]
    assert shown[0] == shown[1]
    assert shown[0].startswith('Tools: [{"type": "function", "function": {"name": "look"')
    assert shown[0].partition("\n")[2] == shown[2]
    chosen = {"prompt": TURNS[:1], "chosen": TURNS[1:], "rejected": [TURNS[1] | {"content": "No"}]}
    (pair,) = preferences_of(tmp_path, with_tools, chosen | {"tools": [TOOL]})
    assert with_tools.decode(pair.token_ids).startswith("Tools: ")
