"""What a server serves."""

from dataclasses import dataclass

from parallel.decoding.types import DecodeMode
from runtime.text import Tokenizer


@dataclass(slots=True, kw_only=True)
class ServedModel:
    """The model behind a server, and what requests that say nothing of it get."""

    name: str
    tokenizer: Tokenizer
    vocab_size: int
    max_positions: int
    tp: int
    drafter: str
    """Changes with the drafter; "" is none."""
    default_mode: DecodeMode
    default_max_tokens: int
    version: str
