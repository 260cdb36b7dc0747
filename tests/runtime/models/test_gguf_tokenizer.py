"""Tokenizers of GGUF files give the tokens of llama.cpp, or are rejected."""

import json
from dataclasses import dataclass
from pathlib import Path

import gguf
import pytest
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoTokenizer

from runtime.models.gguf_tokenizer import check_tokenizer, end_token_ids, load_tokenizer
from runtime.models.tokenizer import Tokenizer
from tests.support.gguf_files import Change

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<end>", "<think>"]
MERGES = ["t h", "th e", "\u0120 the", "1 2", "12 3", "\u0120 1", "' t", "\u0120 \u0120", ") )"]
LETTERS = sorted(ByteLevel.alphabet())
BYTE_LEVEL = [*LETTERS, *(merge.replace(" ", "") for merge in MERGES), "zq", *SPECIAL]
WORDS = ["\u2581", *"abcdehijklmnoprstuvwxy.!", "he", "the", "\u2581t", "\u2581the", "\u2581\u2581"]
PIECES = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), *WORDS, "[INST]"]
TEXTS = [
    "the 123 1234",
    "zq don't the((the)) azqb",
    "  two\n\n\tthe  ",
    "\u4e16 na\u00efve \u00bd\u00b3",
    "<|im_start|>the<|im_end|> the<think>the",
    "<s>the</s>the [INST] the",
]


@dataclass(frozen=True)
class Layout:
    name: str
    file: Path
    metadata: dict[str, object]


def byte_level(pre: str | None, *, add_bos: bool | None = None, eot: int | None = None) -> Change:
    def add(writer: gguf.GGUFWriter) -> None:
        writer.add_tokenizer_model("gpt2")
        if pre is not None:
            writer.add_tokenizer_pre(pre)
        writer.add_token_list(BYTE_LEVEL)
        writer.add_token_types([1] * (len(BYTE_LEVEL) - 5) + [3, 3, 3, 3, 4])
        writer.add_token_merges(MERGES)
        writer.add_bos_token_id(BYTE_LEVEL.index("<|endoftext|>"))
        writer.add_eos_token_id(BYTE_LEVEL.index("<|im_end|>"))
        if add_bos is not None:
            writer.add_add_bos_token(add_bos)
        if eot is not None:
            writer.add_eot_token_id(eot)

    return add


def sentence_piece(*, add_bos: bool | None = None, add_space: bool | None = None) -> Change:
    def add(writer: gguf.GGUFWriter) -> None:
        writer.add_tokenizer_model("llama")
        writer.add_token_list(PIECES)
        writer.add_token_scores([0.0] * 259 + [-float(i) for i in range(len(PIECES) - 259)])
        writer.add_token_types([2, 3, 3] + [6] * 256 + [1] * len(WORDS) + [4])
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_unk_token_id(0)
        if add_bos is not None:
            writer.add_add_bos_token(add_bos)
        if add_space is not None:
            writer.add_add_space_prefix(add_space)

    return add


LAYOUTS: dict[str, tuple[Change, int]] = {
    "qwen2": (byte_level("qwen2"), len(BYTE_LEVEL)),
    "llama-bpe": (byte_level("llama-bpe"), len(BYTE_LEVEL)),
    "llama-bpe without BOS": (byte_level("llama-bpe", add_bos=False), len(BYTE_LEVEL)),
    "tekken": (byte_level("tekken"), len(BYTE_LEVEL)),
    "smollm": (byte_level("smollm"), len(BYTE_LEVEL)),
    "gpt-2 with BOS": (byte_level("gpt-2", add_bos=True), len(BYTE_LEVEL)),
    "unnamed": (byte_level(None, eot=BYTE_LEVEL.index("<end>")), len(BYTE_LEVEL)),
    "SentencePiece": (sentence_piece(), len(PIECES)),
    "SentencePiece without BOS": (sentence_piece(add_bos=False), len(PIECES)),
    "SentencePiece without a space": (sentence_piece(add_space=False), len(PIECES)),
}
EXPECTED = json.loads((Path(__file__).parents[2] / "data" / "llama_cpp_tokens.json").read_text())
"""By layout: the tokens of each text, and what ends a generation, by llama.cpp (llama-cpp-python
0.3.36) on files of these layouts."""


@pytest.fixture(scope="module", params=LAYOUTS)
def layout(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """A layout's file (without weights), and what its keys are."""
    add, size = LAYOUTS[request.param]
    file = tmp_path_factory.mktemp("layout") / "tokens.gguf"
    writer = gguf.GGUFWriter(file, "llama")
    for count in (writer.add_context_length, writer.add_block_count, writer.add_head_count):
        count(8)
    add(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    reader = gguf.GGUFReader(file)
    metadata = {name: field.contents() for name, field in reader.fields.items()}
    check_tokenizer(metadata, size)
    return Layout(request.param, file, metadata)


def test_tokens_are_those_of_llama_cpp(layout: Layout, tmp_path: Path) -> None:
    load_tokenizer(layout.file, layout.metadata).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    saved, ours = AutoTokenizer.from_pretrained(tmp_path), Tokenizer.load(tmp_path)
    for text, expected in zip(TEXTS, EXPECTED[layout.name]["tokens"], strict=True):
        assert saved.encode(text) == expected
        assert list(ours.encode(text)) == expected
    if layout.name.startswith("SentencePiece"):
        assert ours.decode(ours.encode(TEXTS[2])) == TEXTS[2]


def test_runs_of_spaces_are_split_off_before_pieces_are_merged(tmp_path: Path) -> None:
    specials, words = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"], WORDS[:-1]
    codes = [f"<0x{b:02X}>" for b in range(256)]
    pieces = [*specials, *codes, *words, "\u2581\u2581the", "  ", "   ", "\n"]
    file = tmp_path / "tokens.gguf"
    writer = gguf.GGUFWriter(file, "gemma3")
    writer.add_tokenizer_model("llama")
    writer.add_token_list(pieces)
    writer.add_token_scores([0.0] * 261 + [-float(i) for i in range(len(pieces) - 261)])
    writer.add_token_types([3] * 5 + [6] * 256 + [1] * (len(words) + 1) + [4, 4, 4])
    writer.add_bos_token_id(2)
    writer.add_eos_token_id(1)
    writer.add_unk_token_id(3)
    writer.add_add_space_prefix(False)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    metadata = {name: field.contents() for name, field in gguf.GGUFReader(file).fields.items()}
    check_tokenizer(metadata, len(pieces))
    (tmp_path / "saved").mkdir()
    load_tokenizer(file, metadata).save_pretrained(tmp_path / "saved")
    (tmp_path / "saved" / "config.json").write_text("{}")
    ours = Tokenizer.load(tmp_path / "saved")
    for text, expected in {
        "a     the": ["a", "   ", "  ", "the"],
        "  the": ["  ", "the"],
        " the the": ["\u2581the", "\u2581the"],
        "a\n    a": ["a", "\n", "   ", "\u2581", "a"],
    }.items():
        found = ours.encode(text)
        assert [pieces[i] for i in found if i != 2] == expected
        assert ours.decode(found) == text


def test_end_tokens_are_those_of_llama_cpp(layout: Layout) -> None:
    assert end_token_ids(layout.metadata) == EXPECTED[layout.name]["ends"]


def test_every_key_of_an_end_token_counts() -> None:
    keys = {"eos": 3, "eot": 4, "eom": 5, "fim_pad": 6}
    metadata: dict[str, object] = {f"tokenizer.ggml.{k}_token_id": i for k, i in keys.items()}
    metadata["tokenizer.ggml.tokens"] = ["a", "b", "<|eom_id|>", "c", "d", "e", "f"]
    assert end_token_ids(metadata) == [2, 3, 4, 5, 6]
    assert end_token_ids(metadata | {"tokenizer.ggml.eot_token_id": 99}) == [2, 3, 5, 6]


GOOD: dict[str, object] = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "qwen2",
    "tokenizer.ggml.tokens": ["a", "b"],
    "general.name": "anything",
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokenizer.ggml.model": "bert"}, "tokenizer.ggml.model is 'bert': gpt2 and llama"),
        ({"tokenizer.ggml.model": None}, "tokenizer.ggml.model is None"),
        ({"tokenizer.ggml.pre": "deepseek-llm"}, "tokenizer.ggml.pre is 'deepseek-llm': .*qwen2"),
        ({"tokenizer.ggml.add_eos_token": True}, "tokenizer.ggml.add_eos_token is True"),
        ({"tokenizer.ggml.suppress_tokens": [3]}, r"tokenizer.ggml.suppress_tokens is \[3\]"),
        ({"tokenizer.ggml.normalizer.lowercase": True}, "normalizer.lowercase is True"),
        ({"tokenizer.ggml.tokens": None}, "tokenizer.ggml.tokens are missing"),
        (
            {"tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": ["  ", "\u2581\u2581"]},
            "in two spellings",
        ),
        ({"tokenizer.ggml.tokens": ["a"]}, "tokens are 1, but the embedding has 2 rows"),
    ],
)
def test_what_cannot_be_read_exactly_is_rejected(changes: dict[str, object], message: str) -> None:
    check_tokenizer(GOOD, 2)
    with pytest.raises(ValueError, match=message):
        check_tokenizer(GOOD | changes, 2)
