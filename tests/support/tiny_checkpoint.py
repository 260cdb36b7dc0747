"""A small random checkpoint with a tokenizer of words, for processes that load one from disk."""

from pathlib import Path

import tokenizers
from tokenizers import models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.support.tiny_transformer import tiny_model
from tests.support.tokenizer_layouts import SPECIAL, byte_level

VOCAB = 101
MAX_POSITIONS = 512


def save_tiny_checkpoint(directory: Path, **changes: object) -> Path:
    """Write the checkpoint; its words are w0 to w100, and it has no end token.

    `changes` are fields of its configuration.
    """
    fields: dict[str, object] = {"max_position_embeddings": MAX_POSITIONS, "eos_token_id": None}
    model = tiny_model("llama", **(fields | changes))
    model.reference.generation_config.eos_token_id = None
    model.reference.save_pretrained(directory)
    words = {f"w{token}": token for token in range(VOCAB)}
    inner = tokenizers.Tokenizer(models.WordLevel(words, unk_token="w0"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="w0").save_pretrained(directory)
    return directory


def save_byte_checkpoint(directory: Path) -> Path:
    """Write a checkpoint whose tokens are bytes and a few words, and which has an end token."""
    inner = byte_level()
    save_tiny_checkpoint(directory, vocab_size=inner.get_vocab_size(), eos_token_id=0)
    fast = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token=SPECIAL[0])
    fast.save_pretrained(directory)
    return directory
