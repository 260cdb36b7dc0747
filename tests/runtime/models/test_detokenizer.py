"""Text from streams of tokens whose end is far away or never comes."""

import json
import time
from pathlib import Path

import pytest
import tokenizers
from tokenizers import decoders

from runtime.errors import ConfigError
from runtime.models.detokenizer import Detokenizer
from runtime.models.tokenizer import IncrementalDecoder, StopMatcher, Tokenizer
from tests.support.tokenizer_layouts import LAYOUTS, byte_level, sentencepiece, write

MANY = 20_000


@pytest.fixture(scope="module")
def bytewise(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("bytes")
    LAYOUTS["byte-level"](folder)
    return Tokenizer.load(folder)


@pytest.fixture(scope="module")
def fallback(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("fallback")
    LAYOUTS["sentencepiece, first"](folder)
    return Tokenizer.load(folder)


def test_bytes_that_form_no_character_are_shown_at_once(bytewise: Tokenizer) -> None:
    lone = bytewise.encode("🦙", whole=False)[-1]  # a byte that only continues a character
    assert bytewise.decode([lone]) == "\ufffd"
    decoder = IncrementalDecoder(bytewise)
    assert [decoder.push((lone,)) for _ in range(MANY)] == ["\ufffd"] * MANY


def test_the_start_of_a_character_is_shown_when_another_follows(bytewise: Tokenizer) -> None:
    lead = bytewise.encode("🦙", whole=False)[0]
    decoder = IncrementalDecoder(bytewise)
    assert [decoder.push((lead,)) for _ in range(4)] == ["", "\ufffd", "\ufffd", "\ufffd"]
    assert decoder.finish() == "\ufffd"


def test_one_wrong_byte_spoils_a_run_and_ends_the_wait(fallback: Tokenizer) -> None:
    run = fallback.encode("你好", whole=False)[1:]
    wrong = fallback.vocabulary["<0xFF>"]
    ids = [*run, wrong, wrong, run[0]]
    decoder = IncrementalDecoder(fallback)
    pieces = [decoder.push((token,)) for token in ids]
    assert pieces == [""] * 6 + ["\ufffd" * 7, "\ufffd", "\ufffd"]
    assert "".join(pieces) == fallback.decode(ids)


@pytest.mark.parametrize("run", ["你".encode() * 4000, b"\x80" * MANY])
def test_a_long_run_of_bytes_is_looked_through_once(fallback: Tokenizer, run: bytes) -> None:
    ids = [fallback.vocabulary[f"<0x{byte:02X}>"] for byte in run]
    matcher = StopMatcher(fallback, ["你x", "never" * 100])
    started_s = time.process_time()
    assert not any(matcher.push(token) for token in ids)
    spent_s = time.process_time() - started_s
    half = StopMatcher(fallback, ["你x", "never" * 100])
    started_s = time.process_time()
    assert not any(half.push(token) for token in ids[: len(ids) // 8])
    assert spent_s < 40 * (time.process_time() - started_s)  # 64 if it were quadratic
    assert matcher.push(fallback.vocabulary["x"]) == (0xE4 in run)


def test_a_stop_string_inside_a_run_is_found_with_its_last_byte(fallback: Tokenizer) -> None:
    run = fallback.encode("世界你好" * 300, whole=False)[1:]
    matcher = StopMatcher(fallback, ["你好世"])
    found = next(i for i, token in enumerate(run) if matcher.push(token))
    assert found == 14
    assert fallback.decode(run[:15]).endswith("你好世")


def test_a_stop_string_in_held_back_text_is_found(tmp_path: Path) -> None:
    LAYOUTS["unigram, clean-up"](tmp_path)
    tokenizer = Tokenizer.load(tmp_path)
    matcher = StopMatcher(tokenizer, [" n"])
    ids = [tokenizer.vocabulary[piece] for piece in ("▁fox", "▁n")]
    assert tokenizer.decode(ids) == "fox n"
    assert [matcher.push(token) for token in ids] == [False, True]


def test_a_stop_string_with_a_special_token_inside_is_rejected(bytewise: Tokenizer) -> None:
    bytewise.check_stops(["<|im_end|>", "<|im_", "x"])
    with pytest.raises(ConfigError, match=r"'\\n<\|im_end\|>' contains the special token"):
        bytewise.check_stops(["x", "\n<|im_end|>"])


@pytest.mark.parametrize("stop", ["", "x" * 1001])
def test_a_stop_string_of_no_useful_length_is_rejected(bytewise: Tokenizer, stop: str) -> None:
    with pytest.raises(ConfigError, match=f"has {len(stop)} characters: it needs 1 to 1000"):
        bytewise.check_stops([stop])


@pytest.mark.parametrize(
    ("decoder", "problem"),
    [
        (decoders.CTC(), "CTC"),
        (decoders.BPEDecoder("</w>"), "BPEDecoder"),
        (decoders.Sequence([decoders.Fuse(), decoders.WordPiece()]), "WordPiece"),
        (decoders.Sequence([decoders.ByteFallback(), decoders.Strip(" ", 1, 0)]), "Strip"),
        (
            decoders.Sequence([decoders.Fuse(), decoders.Replace(tokenizers.Regex("a+"), "b")]),
            "Replace",
        ),
    ],
)
def test_a_decoder_that_cannot_stream_is_rejected_by_name(
    tmp_path: Path, decoder: decoders.Decoder, problem: str
) -> None:
    inner = byte_level()
    inner.decoder = decoder
    write(tmp_path, inner)
    with pytest.raises(ConfigError, match=rf"the decoder .*{problem}.* in tokenizer.json"):
        Tokenizer.load(tmp_path)


def test_a_sentencepiece_decoder_may_replace_and_strip_the_whole_text(tmp_path: Path) -> None:
    inner = sentencepiece("first")
    parts = [decoders.ByteFallback(), decoders.Fuse(), decoders.Replace("▁", " ")]
    inner.decoder = decoders.Sequence([*parts, decoders.Strip(" ", 1, 1)])
    write(tmp_path, inner)
    tokenizer = Tokenizer.load(tmp_path)
    decoder = Detokenizer(tokenizer.decoding)
    ids = tokenizer.encode("the fox  ")
    pieces = [decoder.push((token,)) for token in ids]
    assert "".join(pieces) + decoder.finish() == inner.decode(ids) == "the fox "
    assert json.loads((tmp_path / "config.json").read_text())


@pytest.mark.parametrize("text", ["Hello world", "naïve 🦙 你好"])
def test_the_bytes_of_tokens_join_to_the_text(
    bytewise: Tokenizer, fallback: Tokenizer, text: str
) -> None:
    for tokenizer in (bytewise, fallback):
        ids = tokenizer.encode(text, whole=False)
        joined = b"".join(tokenizer.token_bytes(token) for token in ids)
        assert joined.decode().strip() == tokenizer.decode(ids).strip()
    assert fallback.token_bytes(fallback.vocabulary["<0xE4>"]) == b"\xe4"
    assert bytewise.token_bytes(10**6) == b""


def test_the_bytes_of_a_special_token_are_its_name(bytewise: Tokenizer) -> None:
    name = next(iter(bytewise.decoding.hidden))
    assert bytewise.token_bytes(bytewise.vocabulary[name]) == name.encode()
