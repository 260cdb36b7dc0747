"""Our tokenizer against transformers', and text that comes token by token."""

import json
import shutil
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from runtime.errors import ConfigError
from runtime.models.tokenizer import (
    IncrementalDecoder,
    StopMatcher,
    Tokenizer,
    check_same_vocabulary,
)
from tests.support.models import smollm2_directory
from tests.support.tokenizer_layouts import LAYOUTS, sentencepiece, write

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}\n"
    "  {%- if m['role'] == 'tool' %}{{ raise_exception('no tools here') }}{% endif %}\n"
    "  {%- if m['role'] == 'assistant' %}{% generation %}{{ m['content'] }}{% endgeneration %}\n"
    "  {%- else %}<{{ m['role'] }}>{{ m['content'] | tojson }}{% endif %}\n"
    "{%- endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
TEXTS = (
    "Hello, world!",
    "  two  spaces . and a stop ?",
    "naïve café — 你好、世界 🦙👩‍🚀\n\n\ttab",
    "<s> special </s> inside",
    "",
)
CHAT = [
    {"role": "system", "content": 'Say "hi" — é'},
    {"role": "user", "content": "你好 <s>"},
    {"role": "assistant", "content": "hi 🦙"},
    {"role": "user", "content": "more"},
]


def byte_tokenizer(corpus: list[str]) -> tokenizers.Tokenizer:
    """Train a byte-level BPE, small enough that most characters take several tokens."""
    inner = tokenizers.Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(corpus, trainer)
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", inner.token_to_id("<s>"))]
    )
    return inner


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tokenizer")
    fast = PreTrainedTokenizerFast(
        tokenizer_object=byte_tokenizer([*TEXTS] * 4), bos_token="<s>", eos_token="</s>"
    )
    fast.chat_template = TEMPLATE
    fast.save_pretrained(directory)
    (directory / "config.json").write_text('{"model_type": "llama", "eos_token_id": 1}')
    return directory


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.load(folder)


@pytest.fixture(scope="module")
def reference(folder: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    """Tokenizer files that a test may change."""
    return Path(shutil.copytree(folder, tmp_path / "copied"))


def edit(file: Path, **changes: object) -> None:
    known = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(known | changes))


@pytest.mark.parametrize("text", TEXTS)
def test_tokens_and_text_are_those_of_transformers(
    text: str, tokenizer: Tokenizer, reference: PreTrainedTokenizerBase
) -> None:
    ids = tokenizer.encode(text)
    assert ids == reference.encode(text)
    assert tokenizer.decode(ids) == reference.decode(ids, skip_special_tokens=True)


def test_chat_tokens_are_those_of_transformers(
    tokenizer: Tokenizer, reference: PreTrainedTokenizerBase
) -> None:
    expected = reference.apply_chat_template(CHAT, add_generation_prompt=True, return_dict=False)
    assert tokenizer.encode_chat(CHAT) == expected


def test_smollm2_is_tokenized_as_by_transformers() -> None:
    directory = smollm2_directory()
    ours, theirs = Tokenizer.load(directory), AutoTokenizer.from_pretrained(directory)
    for text in TEXTS:
        ids = ours.encode(text)
        assert ids == theirs.encode(text)
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)
    for messages in (CHAT, CHAT[1:2]):
        expected = theirs.apply_chat_template(
            messages, add_generation_prompt=True, return_dict=False
        )
        assert ours.encode_chat(messages) == expected
    assert theirs.eos_token_id == 2
    assert ours.eos_ids == {0, 2, 4}  # of its GGUF file, by llama.cpp


def test_settings_of_a_training_run_do_not_cut_the_prompt(copied: Path) -> None:
    inner = tokenizers.Tokenizer.from_file(str(copied / "tokenizer.json"))
    inner.enable_truncation(4)
    inner.enable_padding(length=64)
    inner.save(str(copied / "tokenizer.json"))
    ids = Tokenizer.load(copied).encode("a rather long text, longer than four tokens")
    assert 4 < len(ids) < 64


def test_end_tokens_come_from_all_three_files(copied: Path) -> None:
    assert Tokenizer.load(copied).eos_ids == {1}
    edit(copied / "config.json", eos_token_id=7)
    edit(copied / "generation_config.json", eos_token_id=[5, 9])
    assert Tokenizer.load(copied).eos_ids == {1, 5, 7, 9}
    (copied / "config.json").unlink()
    (copied / "generation_config.json").unlink()
    assert Tokenizer.load(copied).eos_ids == {1}
    edit(copied / "tokenizer_config.json", eos_token=None)
    assert Tokenizer.load(copied).eos_ids == frozenset()


@pytest.mark.parametrize("value", ["</s>", True, [1, "2"], -1, 1.0, {"id": 1}])
def test_end_tokens_that_are_no_ids_are_rejected_by_key(copied: Path, value: object) -> None:
    edit(copied / "generation_config.json", eos_token_id=value)
    with pytest.raises(ConfigError, match=r"generation_config.json: eos_token_id is .*: write"):
        Tokenizer.load(copied)


def test_a_template_can_stand_in_the_tokenizer_config(copied: Path) -> None:
    (copied / "chat_template.jinja").unlink()
    edit(copied / "tokenizer_config.json", chat_template="{{ messages[0]['content'] }}")
    plain = Tokenizer.load(copied)
    assert plain.render_chat(CHAT[:1]) == CHAT[0]["content"]
    template = "x{{ messages[0]['content'] }}"
    named = [{"name": "default", "template": template}, {"name": "rag", "template": "y"}]
    edit(copied / "tokenizer_config.json", chat_template=named)
    assert Tokenizer.load(copied).render_chat(CHAT[:1]) == "x" + CHAT[0]["content"]


def test_a_model_without_a_template_has_no_chat(copied: Path) -> None:
    (copied / "chat_template.jinja").unlink()
    with pytest.raises(ConfigError, match="has no chat template: give the prompt as plain text"):
        Tokenizer.load(copied).encode_chat(CHAT)


def test_a_conversation_that_the_template_rejects_is_reported(tokenizer: Tokenizer) -> None:
    with pytest.raises(ConfigError, match="rejects the conversation: no tools here"):
        tokenizer.encode_chat([{"role": "tool", "content": "x"}])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("tokenizer.json", "{}", "tokenizer.json cannot be read"),
        ("tokenizer.json", None, "has no tokenizer.json"),
        ("tokenizer_config.json", "{", "tokenizer_config.json: not JSON"),
        ("tokenizer_config.json", "[]", "tokenizer_config.json: .*JSON object"),
        ("chat_template.jinja", "{% if %}", "the chat template of .* rejects"),
    ],
)
def test_damaged_files_are_named(copied: Path, name: str, text: str | None, message: str) -> None:
    (copied / name).unlink()
    if text is not None:
        (copied / name).write_text(text)
    with pytest.raises(ConfigError, match=message):
        Tokenizer.load(copied).encode_chat(CHAT)


def test_a_drafter_with_another_vocabulary_is_rejected(copied: Path, tokenizer: Tokenizer) -> None:
    check_same_vocabulary(tokenizer, Tokenizer.load(copied))
    byte_tokenizer(["quite another text"] * 9).save(str(copied / "tokenizer.json"))
    with pytest.raises(ConfigError, match=r"the drafter has another vocabulary: .* tokens differ"):
        check_same_vocabulary(tokenizer, Tokenizer.load(copied))


def test_tokens_of_any_file_count_in_the_comparison_of_vocabularies(tmp_path: Path) -> None:
    names = ("byte-level", "added_tokens_decoder", "added_tokens.json", "special_tokens_map.json")
    loaded = {}
    for name in names:
        LAYOUTS[name](tmp_path / name)
        loaded[name] = Tokenizer.load(tmp_path / name)
        expected = AutoTokenizer.from_pretrained(tmp_path / name).get_vocab()
        assert loaded[name].vocabulary == expected
    check_same_vocabulary(loaded["added_tokens_decoder"], loaded["added_tokens.json"])
    assert loaded["added_tokens_decoder"].digest == loaded["added_tokens.json"].digest
    for name in ("byte-level", "special_tokens_map.json"):
        with pytest.raises(ConfigError, match=r"the drafter has another vocabulary"):
            check_same_vocabulary(loaded["added_tokens.json"], loaded[name])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"auto_map": {"AutoTokenizer": ["own.Own", None]}}, "auto_map names the tokenizer code"),
        ({"auto_map": ["own.Own", None]}, "auto_map names the tokenizer code"),
        ({"tokenizer_class": "CodeLlamaTokenizer"}, "CodeLlamaTokenizer overrides _encode_plus"),
        ({"tokenizer_class": "ByT5Tokenizer"}, "ByT5Tokenizer runs in Python, not in tokenizers"),
    ],
)
def test_a_tokenizer_that_is_code_is_rejected_by_name(
    tmp_path: Path, settings: dict[str, object], message: str
) -> None:
    write(tmp_path, sentencepiece("legacy"), settings)
    with pytest.raises(ConfigError, match=message):
        Tokenizer.load(tmp_path)


def test_several_end_tokens_need_one_that_ends_a_text(copied: Path) -> None:
    edit(copied / "config.json", eos_token_id=[5, 9])
    assert Tokenizer.load(copied).eos_id == 1
    edit(copied / "tokenizer_config.json", eos_token=None)
    with pytest.raises(ConfigError, match=r"has the end tokens \[5, 9\], .* set eos_token in"):
        _ = Tokenizer.load(copied).eos_id
    edit(copied / "config.json", eos_token_id=9)
    assert Tokenizer.load(copied).eos_id == 9


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_pieces_add_up_to_the_whole_text(tokenizer: Tokenizer, data: st.DataObject) -> None:
    if data.draw(st.booleans(), label="real text"):
        ids = tokenizer.encode(data.draw(st.text(max_size=30)))
    else:  # any tokens: bytes that are no text, special tokens between
        ids = data.draw(st.lists(st.integers(0, 299), max_size=30))
    decoder = IncrementalDecoder(tokenizer)
    pieces = [decoder.push((token,)) for token in ids]
    assert "".join(pieces) + decoder.finish() == tokenizer.decode(ids)


@settings(max_examples=50, deadline=None)
@given(st.text(alphabet="aé你🦙 ", max_size=20))
def test_no_character_is_split(tokenizer: Tokenizer, text: str) -> None:
    decoder = IncrementalDecoder(tokenizer)
    for token in tokenizer.encode(text):
        assert "\ufffd" not in decoder.push((token,))


def test_smollm2_streams_characters_of_several_tokens() -> None:
    tokenizer = Tokenizer.load(smollm2_directory())
    text = "🦙👩‍🚀 ζῷα 你好 " * 3
    decoder = IncrementalDecoder(tokenizer)
    pieces = [decoder.push((token,)) for token in tokenizer.encode(text)]
    assert "" in pieces  # some tokens end inside a character
    assert "\ufffd" not in "".join(pieces)
    assert "".join(pieces) + decoder.finish() == text


@settings(max_examples=100, deadline=None)
@given(
    text=st.text(alphabet="ab é你", max_size=30),
    stops=st.lists(st.text(alphabet="ab é你", min_size=1, max_size=4), max_size=3),
)
def test_the_first_token_that_completes_a_stop_string_is_found(
    tokenizer: Tokenizer, text: str, stops: list[str]
) -> None:
    ids = tokenizer.encode(text)
    matcher = StopMatcher(tokenizer, stops)
    found = next((i for i, token in enumerate(ids) if matcher.push(token)), None)
    expected = next(
        (i for i in range(len(ids)) if any(s in tokenizer.decode(ids[: i + 1]) for s in stops)),
        None,
    )
    assert found == expected


@pytest.mark.parametrize("text", ["a\ud800b", "\udfff", "x" * 5000 + "\ud83e"])
def test_half_a_surrogate_pair_is_rejected_with_its_place(tokenizer: Tokenizer, text: str) -> None:
    with pytest.raises(ConfigError, match=r"half a surrogate pair \('\\ud.*' at character \d+\)"):
        tokenizer.encode(text)


def test_a_long_text_has_the_tokens_of_transformers(
    tokenizer: Tokenizer, reference: PreTrainedTokenizerBase
) -> None:
    text = "Hello, world! naïve 你好 🦙 " * 300
    assert tokenizer.encode(text) == reference.encode(text)
    assert tokenizer.encode(text, whole=False) == reference.encode(text, add_special_tokens=False)


PARTS = "{% for m in messages %}{% for part in m.content %}{{ part.text }}{% endfor %}{% endfor %}"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (PARTS, r"drops the content of messages\[0\] \(role system\)"),
        ("{% for m in messages %}<m>{% endfor %}", r"drops the content of messages\[0\]"),
        ("{{ messages[-1].content }}", r"drops the content of messages\[0\]"),
        (
            "{% for m in messages if m.role != 'user' %}{{ m.content }}{% endfor %}",
            r"messages\[1\]",
        ),
        ("{{ messages[0].content + 1 }}", "rejects the conversation: TypeError: "),
        ("{{ 1 / 0 }}", "rejects the conversation: ZeroDivisionError: "),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError: "),
        ("{% for i in range(10 ** 9) %}{% endfor %}", "OverflowError: "),
        ("{{ messages.append(1) }}", "SecurityError: "),
        ("{{ nothing.here }}", "UndefinedError: "),
        ("{% if %}", "TemplateSyntaxError: "),
    ],
)
def test_a_template_that_fails_or_loses_text_is_one_clear_error(
    copied: Path, template: str, message: str
) -> None:
    (copied / "chat_template.jinja").write_text(template)
    with pytest.raises(ConfigError, match=message):
        Tokenizer.load(copied).encode_chat(CHAT)


def test_a_word_of_the_template_does_not_pass_for_what_the_user_says(copied: Path) -> None:
    (copied / "chat_template.jinja").write_text("user: a{{ bos_token }}")
    with pytest.raises(ConfigError, match=r"drops the content of messages\[0\]"):
        Tokenizer.load(copied).encode_chat([{"role": "user", "content": "a"}])


def test_a_template_that_drops_some_contents_only_is_rejected_for_them(copied: Path) -> None:
    template = "{% for m in messages %}{{ m.content.split('##')[0] }}{% endfor %}"
    (copied / "chat_template.jinja").write_text(template)
    fresh = Tokenizer.load(copied)
    assert fresh.render_chat([{"role": "user", "content": "kept"}]) == "kept"
    with pytest.raises(ConfigError, match=r"drops the content of messages\[0\]"):
        fresh.render_chat([{"role": "user", "content": "kept ## lost"}])
