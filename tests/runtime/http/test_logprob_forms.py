"""Log probabilities in both of OpenAI's forms, also of tokens that are parts of a character."""

from pathlib import Path

from parallel.decoding.types import TokenLogprobs
from runtime.http.logprob_forms import chat_logprobs, completion_logprobs
from runtime.models.tokenizer import Tokenizer
from tests.support.tokenizer_layouts import LAYOUTS


def test_parts_of_a_character_keep_their_bytes(tmp_path: Path) -> None:
    LAYOUTS["byte-level"](tmp_path)
    tokenizer = Tokenizer.load(tmp_path)
    ids = tokenizer.encode("a🦙", whole=False)
    found = [
        TokenLogprobs(logprob=-0.5 * n, top_ids=(token,), top_logprobs=(-0.5 * n,))
        for n, token in enumerate(ids)
    ]
    chat = chat_logprobs(tokenizer, ids, found)["content"]
    assert bytes(byte for entry in chat for byte in entry["bytes"]).decode() == "a🦙"
    assert [entry["logprob"] for entry in chat] == [one.logprob for one in found]
    assert [entry["top_logprobs"][0]["bytes"] for entry in chat] == [e["bytes"] for e in chat]
    plain = completion_logprobs(tokenizer, ids, found, offset=7)
    assert plain["tokens"][0] == "a"
    assert plain["tokens"][1].startswith("bytes:\\xf0")
    assert plain["text_offset"][:2] == [7, 8]
    assert plain["token_logprobs"] == [one.logprob for one in found]
    assert [list(top) for top in plain["top_logprobs"]] == [[text] for text in plain["tokens"]]
    assert completion_logprobs(tokenizer, [], [], offset=7)["text_offset"] == []
