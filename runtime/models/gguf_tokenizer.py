"""Load the tokenizer of a GGUF file: transformers builds it, and what it ignores is added.

The reference is llama.cpp: how it splits text for each `tokenizer.ggml.pre`, and which tokens end
its generation. A tokenizer that cannot be made to match is rejected.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import PreTokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from runtime.files.strict_json import parse_object

_GGML = "tokenizer.ggml."
_SPACE = "\u2581"  # SentencePiece's symbol for a space
_DEFAULT_SPLITS = (
    r"[\p{P}\$\+<=>\^~\|]+",
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)",
    r"\p{N}+",
    r"[0-9][0-9][0-9]",
)
"""How llama.cpp splits text if a file does not name a pre-tokenizer."""
_BY_TRANSFORMERS = ("llama-bpe", "llama3", "llama-v3", "tekken", "qwen2", "deepseek-r1-qwen")
_WHOLE_FIRST = ("llama-bpe", "llama3", "llama-v3", "tekken")
"""Pre-tokenizers that keep a piece whole if it is a token, and begin texts with BOS."""
_READ = (
    "model pre tokens scores token_type merges token_type_count bos_token_id eos_token_id "
    "eot_token_id eom_token_id unknown_token_id padding_token_id seperator_token_id mask_token_id "
    "cls_token_id fim_pre_token_id fim_suf_token_id fim_mid_token_id fim_pad_token_id "
    "fim_rep_token_id fim_sep_token_id prefix_token_id suffix_token_id middle_token_id "
    "add_bos_token add_space_prefix"
)
"""Keys that are read here, or that name tokens without a role in plain generation."""
_NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "add_eos_token": (False,),
    "add_sep_token": (False,),
    "remove_extra_whitespaces": (False,),
    "suppress_tokens": ([],),
}
_END_KEYS = tuple(
    f"{name}_token_id" for name in ("eos", "eot", "eom", "fim_pad", "fim_rep", "fim_sep")
)
_END_TEXTS = (
    "<|eot_id|> <|im_end|> <|end|> <|return|> <|call|> <|flush|> <|calls|> <end_of_turn> "
    "<|endoftext|> </s> <|eom_id|> <EOT> _<EOT> [EOT] [EOS] <|end_of_text|> <end_of_utterance> "
    "<eos> <|fim_pad|> <fim-pad> <fim_pad> <PAD> [PAD] <|fim_repo|> <|repo_name|> <fim-repo> "
    "<REPO> <reponame> <|file_sep|> <\uff5cend\u2581of\u2581sentence\uff5c>"
)
"""Tokens that end llama.cpp's generation whatever the metadata states."""


def check_tokenizer(metadata: Mapping[str, object], vocab_size: int) -> None:
    """Reject a tokenizer that cannot be read exactly.

    Args:
        metadata: all keys of the file, including the tokens.
        vocab_size: rows of its embedding.

    Raises:
        ValueError: names the key.
    """
    model, pre = metadata.get(f"{_GGML}model"), _pre(metadata)
    if model not in ("gpt2", "llama"):
        raise ValueError(f"{_GGML}model is {model!r}: gpt2 and llama are supported")
    known = (*_BY_TRANSFORMERS, "default", "gpt-2", "smollm")
    if model == "gpt2" and pre not in known:
        raise ValueError(f"{_GGML}pre is {pre!r}: {', '.join(known)} are supported")
    for key, value in metadata.items():
        name = key.removeprefix(_GGML)
        is_known = name in _READ.split() or (name in _NEUTRAL and value in _NEUTRAL[name])
        if key.startswith(_GGML) and not is_known:
            raise ValueError(f"{key} is {value!r}, which is not supported")
    tokens = _tokens(metadata)
    twice = _runs_of_spaces(tokens).keys() & set(tokens)
    if model == "llama" and twice:
        raise ValueError(
            f"{_GGML}tokens has {min(twice)!r} in two spellings, which is not supported"
        )
    num_tokens = len(tokens)
    if num_tokens != vocab_size:
        raise ValueError(f"{_GGML}tokens are {num_tokens}, but the embedding has {vocab_size} rows")


def load_tokenizer(source: Path, metadata: Mapping[str, object]) -> PreTrainedTokenizerFast:
    """Return the tokenizer of a file that `check_tokenizer` accepts."""
    loaded: PreTrainedTokenizerFast = AutoTokenizer.from_pretrained(
        str(source.parent), gguf_file=source.name
    )
    inner, pre = loaded.backend_tokenizer, _pre(metadata)
    if metadata[f"{_GGML}model"] == "llama":
        _add_space_prefix(inner, wanted=metadata.get(f"{_GGML}add_space_prefix") is not False)
        _match_runs_of_spaces(inner, _tokens(metadata))
    else:
        inner.pre_tokenizer = _splitter(pre) or inner.pre_tokenizer
        inner.model.ignore_merges = pre in _WHOLE_FIRST
        if pre in _WHOLE_FIRST and metadata.get(f"{_GGML}add_bos_token") is None:
            loaded.add_bos_token = True
    return loaded


def end_token_ids(metadata: Mapping[str, object]) -> list[int]:
    """Return the tokens that end a generation, in increasing order."""
    tokens, texts = _tokens(metadata), frozenset(_END_TEXTS.split())
    ids = {metadata.get(f"{_GGML}{key}") for key in _END_KEYS}
    ids |= {token for token, text in enumerate(tokens) if text in texts}
    return sorted(i for i in ids if isinstance(i, int) and 0 <= i < len(tokens))


def _pre(metadata: Mapping[str, object]) -> str:
    return str(metadata.get(f"{_GGML}pre") or "default")


def _tokens(metadata: Mapping[str, object]) -> Sequence[str]:
    tokens = metadata.get(f"{_GGML}tokens")
    if not isinstance(tokens, list):
        raise ValueError(f"{_GGML}tokens are missing")
    return tokens


def _splitter(pre: str) -> PreTokenizer | None:
    """Return the pre-tokenizer; None keeps the one that transformers chose."""
    if pre in _BY_TRANSFORMERS:
        return None
    if pre == "default":
        splits = [pre_tokenizers.Split(Regex(r), behavior="isolated") for r in _DEFAULT_SPLITS]
        to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        return pre_tokenizers.Sequence([*splits, to_bytes])
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if pre == "gpt-2":
        return to_bytes
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), to_bytes])


def _add_space_prefix(inner: Tokenizer, *, wanted: bool) -> None:
    """Put a space before the text and after special tokens, as llama.cpp does."""
    steps = [normalizers.Prepend(_SPACE)] if wanted else []
    inner.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", _SPACE)])
    inner.pre_tokenizer = None
    if not wanted:  # transformers' decoder removes a space that was not added
        to_text = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
        inner.decoder = decoders.Sequence(to_text)


def _match_runs_of_spaces(inner: Tokenizer, tokens: Sequence[str]) -> None:
    """Match tokens that are runs of spaces before all others, the longest first.

    Gemma's files have such tokens. llama.cpp splits a text at them before it merges pieces, while
    transformers merges them of shorter runs, so that long runs become other tokens.
    """
    runs = _runs_of_spaces(tokens)
    if not runs:
        return
    model = parse_object(inner.to_str(), "the tokenizer")["model"]
    merges = [
        (left, right)
        for left, right in model["merges"]
        if not runs.keys() & {left, right, left + right}
    ]
    inner.model = BPE(
        vocab={runs.get(token, token): i for token, i in model["vocab"].items()},
        merges=merges,
        unk_token=model["unk_token"],
        fuse_unk=model["fuse_unk"],
        byte_fallback=model["byte_fallback"],
    )
    inner.add_tokens([AddedToken(run, normalized=False) for run in runs.values()])


def _runs_of_spaces(tokens: Sequence[str]) -> dict[str, str]:
    """Return the tokens that are runs of spaces, by how SentencePiece spells them."""
    runs = (token for token in tokens if len(token) > 1 and not token.strip(" "))
    return {_SPACE * len(run): run for run in runs}
