"""Tokenizers in the layouts that checkpoints have, compared with transformers."""

import random
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from runtime.models import tokenizer_files
from runtime.models.tokenizer import IncrementalDecoder, StopMatcher, Tokenizer
from tests.support.models import smollm2_directory
from tests.support.tokenizer_layouts import LAYOUTS

TEXTS = (
    "the quick brown fox isn't lazy , is it ? no .",
    "  two  spaces\n\n\ttab ' s and  's",
    "naïve café — 你好、世界 🦙👩‍🚀",
    "<s> </s> <|im_start|>user<|im_end|> <mask> <tool>fox! Ünder",
    "Paris London Paris",
    "",
)
CHAT = (
    {"role": "system", "content": "the fox is lazy ."},
    {"role": "user", "content": "is it ? 你好 <|im_end|>"},
    {"role": "assistant", "content": "no ."},
    {"role": "user", "content": "Paris"},
)


@dataclass(frozen=True)
class Pair:
    ours: Tokenizer
    theirs: Any
    cleans: bool

    def decode(self, ids: list[int]) -> str:
        return str(self.theirs.decode(ids, skip_special_tokens=True))

    def some_ids(self) -> list[list[int]]:
        """Tokens of real texts, and any tokens: parts of characters, special ones between."""
        chance, size = random.Random(0), len(self.theirs)
        any_ids = [[chance.randrange(size) for _ in range(chance.randrange(9))] for _ in range(60)]
        return [self.theirs.encode(text) for text in TEXTS] + any_ids


def common_prefix(texts: list[str]) -> str:
    least, most = min(texts), max(texts)
    size = next(
        (i for i, pair in enumerate(zip(least, most, strict=False)) if pair[0] != pair[1]),
        len(least),
    )
    return least[:size]


@pytest.fixture(scope="module", params=[*product((*LAYOUTS, "smollm2"), (False, True))], ids=str)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    name = str(request.param[0])
    if name == "smollm2":
        folder = smollm2_directory()
    else:
        folder = Path(tmp_path_factory.mktemp("tokenizer"))
        LAYOUTS[name](folder)
    ours = Tokenizer.load(folder)
    if request.param[1]:  # the copy that the first load kept
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tokenizer_files, "load_tokenizer", None)
            ours = Tokenizer.load(folder)
    return Pair(ours, AutoTokenizer.from_pretrained(folder), "clean-up" in name)


def test_ids_are_those_of_transformers(pair: Pair) -> None:
    for text in (*TEXTS, TEXTS[0] * 200):
        assert pair.ours.encode(text) == pair.theirs.encode(text)
        bare = pair.theirs.encode(text, add_special_tokens=False)
        assert pair.ours.encode(text, whole=False) == bare
    assert pair.ours.vocabulary == pair.theirs.get_vocab()


def test_text_is_that_of_transformers(pair: Pair) -> None:
    for ids in pair.some_ids():
        assert pair.ours.decode(ids) == pair.decode(ids)


def test_chat_is_that_of_transformers(pair: Pair) -> None:
    for messages in (CHAT, CHAT[1:2]):
        expected = pair.theirs.apply_chat_template(
            list(messages), add_generation_prompt=True, return_dict=False
        )
        assert pair.ours.encode_chat(messages) == expected


def test_the_end_token_is_that_of_transformers(pair: Pair) -> None:
    expected = pair.theirs.eos_token_id
    assert pair.ours.eos_id == expected
    assert pair.ours.eos_ids >= (set() if expected is None else {expected})


def test_streamed_pieces_are_the_text_of_transformers(pair: Pair) -> None:
    for ids in pair.some_ids():
        decoder = IncrementalDecoder(pair.ours)
        pieces = [decoder.push((token,)) for token in ids]
        assert "".join(pieces) + decoder.finish() == pair.decode(ids)


def test_text_is_streamed_as_soon_as_no_token_can_change_it(pair: Pair) -> None:
    size = min(len(pair.theirs), 600)
    ids = pair.theirs.encode("the fox 你 isn't é", add_special_tokens=False)
    decoder, text = IncrementalDecoder(pair.ours), ""
    for done, token in enumerate(ids, start=1):
        text += decoder.push((token,))
        endings = [pair.decode([*ids[:done], other]) for other in range(size)]
        certain = common_prefix([pair.decode(ids[:done]), pair.decode(ids), *endings])
        assert certain.startswith(text)
        if not pair.cleans:  # clean-up looks further ahead than one token
            assert text == certain
        assert len(certain) - len(text) <= 4


def test_stop_strings_end_where_the_text_of_transformers_has_them(pair: Pair) -> None:
    stops = ["fox", " is", "é —", "世", "好、", "o .", "n't"]
    for ids in pair.some_ids():
        for stop in stops:
            matcher = StopMatcher(pair.ours, [stop])
            found = next((i for i, token in enumerate(ids) if matcher.push(token)), None)
            prefixes = (pair.decode(ids[: i + 1]) for i in range(len(ids)))
            assert found == next((i for i, text in enumerate(prefixes) if stop in text), None)


def test_a_special_token_is_a_stop_string(pair: Pair) -> None:
    for special in pair.theirs.all_special_tokens:
        token = pair.theirs.convert_tokens_to_ids(special)
        matcher = StopMatcher(pair.ours, ["never", special])
        before = pair.theirs.encode("fox", add_special_tokens=False)
        assert [matcher.push(one) for one in (*before, token)] == [False] * len(before) + [True]
