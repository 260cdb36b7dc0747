"""Load a checkpoint's tokenizer as transformers' AutoTokenizer does, from local files only.

tokenizer.json alone is not enough: transformers adds the tokens of up to three more files and
rebuilds the tokenizers of some model families from their vocabularies.
"""

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from runtime.errors import ConfigError
from runtime.files.strict_json import read_json_object
from runtime.models.tokenizer_copy import LoadedTokenizer

_SETTINGS = "tokenizer_config.json"
_JSON_FILES = ("config.json", _SETTINGS, "special_tokens_map.json", "added_tokens.json")
_FIXED_METHODS = (
    "__call__",
    "encode",
    "_encode_plus",
    "decode",
    "_decode",
    "apply_chat_template",
    "clean_up_tokenization",
)
"""Methods that some models' classes override, with effects that the library lacks."""


def load_tokenizer(folder: Path) -> LoadedTokenizer:
    """Return what is used of transformers' tokenizer of a directory.

    Raises:
        ConfigError: a file is missing or damaged, or the tokenizer needs custom Python code;
            names the file and the key.
    """
    tokenizer = load_fast_tokenizer(folder)
    return loaded_tokenizer(tokenizer, read_end_tokens(folder, tokenizer))


def loaded_tokenizer(tokenizer: Any, eos_ids: frozenset[int]) -> LoadedTokenizer:
    """Return what is used of a tokenizer of transformers, with the model's end tokens."""
    return LoadedTokenizer(
        backend=tokenizer.backend_tokenizer,
        eos_token_id=tokenizer.eos_token_id,
        cleans=_cleans(tokenizer),
        chat_template=tokenizer.chat_template,
        special_tokens=tokenizer.special_tokens_map,
        eos_ids=eos_ids,
    )


def load_fast_tokenizer(folder: Path) -> Any:
    """Return transformers' tokenizer of a directory, without truncation and padding.

    Raises:
        ConfigError: a file is missing or damaged, or the tokenizer needs custom Python code;
            names the file and the key.
    """
    if not (folder / "tokenizer.json").is_file():
        raise ConfigError(
            f"{folder} has no tokenizer.json: create it with "
            "transformers.AutoTokenizer.from_pretrained(...).save_pretrained(...)"
        )
    read = {
        name: read_json_object(folder / name) for name in _JSON_FILES if (folder / name).exists()
    }
    _reject_custom_code(folder, read.get(_SETTINGS, {}))
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # transformers and tokenizers raise nothing narrower
        raise ConfigError(_problem(folder, error)) from error
    _reject_overrides(folder, type(tokenizer))
    tokenizer.backend_tokenizer.no_truncation()  # some files have the settings of a training run
    tokenizer.backend_tokenizer.no_padding()
    return tokenizer


def read_end_tokens(folder: Path, tokenizer: Any) -> frozenset[int]:
    """Return the tokens that end an output, from the model's settings and the tokenizer.

    Raises:
        ConfigError: an entry is not a token id; names the file and the key.
    """
    found: set[int] = set()
    for name in ("config.json", "generation_config.json"):
        if (folder / name).exists():
            found |= _ids(read_json_object(folder / name).get("eos_token_id"), folder / name)
    if tokenizer.eos_token_id is not None:
        found.add(tokenizer.eos_token_id)
    return frozenset(found)


def _problem(folder: Path, error: Exception) -> str:
    file = folder / "tokenizer.json"
    try:
        Tokenizer.from_file(str(file))
    except Exception as damage:  # the library raises nothing narrower
        return f"{file} cannot be read: {damage}"
    return f"the tokenizer in {folder} cannot be loaded: {type(error).__name__}: {error}"


def _ids(value: object, file: Path) -> set[int]:
    ids = [] if value is None else value if isinstance(value, list) else [value]
    for one in ids:
        if isinstance(one, bool) or not isinstance(one, int) or one < 0:
            raise ConfigError(
                f"{file}: eos_token_id is {value!r}: write a token id or a list of token ids"
            )
    return set(ids)


def _reject_custom_code(folder: Path, settings: dict[str, Any]) -> None:
    auto_map = settings.get("auto_map")
    if isinstance(auto_map, dict):
        auto_map = auto_map.get("AutoTokenizer")
    if auto_map:
        raise ConfigError(
            f"{folder / _SETTINGS}: auto_map names the tokenizer code {auto_map!r}, which is not "
            "run: save the tokenizer as a class of transformers, with tokenizer.json"
        )


def _reject_overrides(folder: Path, kind: type) -> None:
    remedy = f"set tokenizer_class in {folder / _SETTINGS} to PreTrainedTokenizerFast if it fits"
    if not issubclass(kind, PreTrainedTokenizerFast):
        raise ConfigError(f"{folder}: {kind.__name__} runs in Python, not in tokenizers: {remedy}")
    for name in _FIXED_METHODS:
        if getattr(kind, name) is not getattr(PreTrainedTokenizerFast, name):
            raise ConfigError(f"{folder}: {kind.__name__} overrides {name}: {remedy}")


def _cleans(tokenizer: Any) -> bool:
    """Return whether transformers removes spaces before punctuation from decoded text."""
    is_bpe = type(tokenizer.backend_tokenizer.model).__name__ == "BPE"
    even_so = getattr(
        tokenizer, "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output", False
    )
    return bool(tokenizer.clean_up_tokenization_spaces and (even_so or not is_bpe))
