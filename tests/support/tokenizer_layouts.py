"""Small tokenizers in the layouts that checkpoints have, each written to a directory."""

import json
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PLAIN = (
    "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}{{ eos_token }}"
    "{% endfor %}"
)
CORPUS = ["the quick brown fox isn't lazy , is it ? no . naïve 你好 Paris London"] * 9
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
Layout = Callable[[Path], None]


def byte_level(*, prefix: bool = False, special: list[str] | None = None) -> tokenizers.Tokenizer:
    """Train a byte-level BPE in which many characters take several tokens."""
    inner = tokenizers.Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=SPECIAL if special is None else special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    inner.train_from_iterator(CORPUS, trainer)
    return inner


def sentencepiece(kind: str) -> tokenizers.Tokenizer:
    """Make a BPE with byte fallback: `first` and `never` by Metaspace, `legacy` by Prepend."""
    words = ("the", "Paris", "London", "fox")
    merges: list[tuple[str, str]] = []
    for word in words:
        piece = "▁"
        for char in word:
            if (piece, char) not in merges:
                merges.append((piece, char))
            piece += char
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), "▁"]
    pieces += [*string.ascii_letters, *string.digits, *".,!?:'-[]", *("".join(m) for m in merges)]
    vocab = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    inner = tokenizers.Tokenizer(
        models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    parts: list[Any] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if kind == "legacy":
        inner.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
    elif kind == "first":
        inner.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="first", split=False)
    else:
        inner.normalizer = normalizers.Replace(" ", "▁")
    if kind != "never":
        parts.append(decoders.Strip(" ", 1, 0))
    inner.decoder = decoders.Sequence(parts)
    inner.add_special_tokens(["<unk>", "<s>", "</s>"])
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return inner


def write(
    folder: Path,
    inner: tokenizers.Tokenizer,
    settings: dict[str, Any] | None = None,
    *,
    config: dict[str, Any] | None = None,
    template: str | None = PLAIN,
    **files: Any,
) -> None:
    """Write a tokenizer's files by hand: transformers would tidy them up."""
    folder.mkdir(parents=True, exist_ok=True)
    inner.save(str(folder / "tokenizer.json"))
    own = {"tokenizer_class": "PreTrainedTokenizerFast"} | (settings or {})
    (folder / "tokenizer_config.json").write_text(json.dumps(own))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"} | (config or {})))
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value))


def _added(*names: str, first: int, special: bool = True) -> dict[str, dict[str, Any]]:
    flags = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False}
    return {
        str(first + i): {"content": name, "special": special} | flags
        for i, name in enumerate(names)
    }


def _word_piece() -> tokenizers.Tokenizer:
    words = [
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "the",
        "fox",
        "is",
        "n",
        "un",
        "##t",
        "##s",
        "t",
        "no",
        "it",
    ]
    words += [*string.ascii_lowercase, *(f"##{c}" for c in string.ascii_lowercase), *".,!?'"]
    vocab = {word: i for i, word in enumerate(dict.fromkeys(words))}
    inner = tokenizers.Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    inner.normalizer = normalizers.BertNormalizer(lowercase=True)
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return inner


def _unigram() -> tokenizers.Tokenizer:
    letters = [*string.ascii_letters, *"▁.,!?'", "▁the", "▁fox", "n't", "▁n", "▁'"]
    vocab = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), *((piece, -1.0) for piece in letters)]
    inner = tokenizers.Tokenizer(models.Unigram(vocab, unk_id=0))
    inner.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="always")
    inner.decoder = decoders.Metaspace("▁", prepend_scheme="always")
    return inner


def _word_level() -> tokenizers.Tokenizer:
    words = ["<unk>", "<eos>", "the", "quick", "fox", "is", "lazy", "Paris", "London", ".", "?"]
    inner = tokenizers.Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>")
    )
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return inner


def _llama3() -> tokenizers.Tokenizer:
    inner = byte_level()
    pattern = tokenizers.Regex(r"(?i:'s|'t)|\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(pattern, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    inner.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    return inner


def _trained_with_limits(folder: Path) -> None:
    inner = byte_level()
    inner.enable_truncation(4)
    inner.enable_padding(length=64)
    write(folder, inner, {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}, template=CHATML)


def _odd_added_tokens(folder: Path) -> None:
    inner = byte_level()
    add = tokenizers.AddedToken
    inner.add_tokens([add("<tool>", lstrip=True), add("fox!", single_word=True), "Ünder"])
    inner.add_special_tokens([add("<mask>", lstrip=True, rstrip=True)])
    write(folder, inner, {"eos_token": "<|im_end|>", "mask_token": "<mask>"}, template=CHATML)


def _templates_in_a_folder(folder: Path) -> None:
    write(folder, byte_level(), {"eos_token": "<|im_end|>"}, template=CHATML)
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("tools {{ messages }}")


_UNKNOWN = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
_BARE: list[str] = []
LAYOUTS: dict[str, Layout] = {
    "byte-level": lambda f: write(f, byte_level(), {"eos_token": "<|im_end|>"}, template=CHATML),
    "byte-level, prefix space": lambda f: write(
        f, byte_level(prefix=True), {"eos_token": "<|im_end|>", "add_prefix_space": True}
    ),
    "gpt2 class": lambda f: write(
        f,
        byte_level(),
        {"tokenizer_class": "GPT2TokenizerFast", "eos_token": "<|endoftext|>"},
        config={"model_type": "gpt2"},
    ),
    "qwen2 class, added_tokens_decoder": lambda f: write(
        f,
        byte_level(special=_BARE),
        {
            "tokenizer_class": "Qwen2Tokenizer",
            "eos_token": "<|im_end|>",
            "added_tokens_decoder": _added(*SPECIAL, first=300),
            "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
        },
        config={"model_type": "qwen2"},
        template=CHATML,
    ),
    "llama 3": lambda f: write(
        f, _llama3(), {"bos_token": "<|endoftext|>", "eos_token": "<|im_end|>"}, template=CHATML
    ),
    "llama class over a byte-level": lambda f: write(
        f, byte_level(), {"tokenizer_class": "LlamaTokenizerFast", "eos_token": "<|im_end|>"}
    ),
    "sentencepiece, first": lambda f: write(f, sentencepiece("first"), _UNKNOWN),
    "sentencepiece, legacy": lambda f: write(f, sentencepiece("legacy"), _UNKNOWN),
    "gemma": lambda f: write(f, sentencepiece("never"), _UNKNOWN),
    "llama class": lambda f: write(
        f, sentencepiece("legacy"), _UNKNOWN | {"tokenizer_class": "LlamaTokenizer"}
    ),
    "llama class, legacy": lambda f: write(
        f,
        sentencepiece("legacy"),
        _UNKNOWN | {"tokenizer_class": "LlamaTokenizerFast", "legacy": True, "add_eos_token": True},
    ),
    "mistral": lambda f: write(
        f,
        sentencepiece("legacy"),
        _UNKNOWN | {"tokenizer_class": "LlamaTokenizer", "legacy": False},
        config={"model_type": "mistral", "transformers_version": "4.42.0"},
    ),
    "a model that transformers does not know": lambda f: write(
        f,
        sentencepiece("first"),
        _UNKNOWN | {"tokenizer_class": "OwnTokenizerFast"},
        config={"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig"}},
    ),
    "class in config.json": lambda f: write(
        f,
        sentencepiece("legacy"),
        _UNKNOWN | {"tokenizer_class": None},
        config={"model_type": "llama", "tokenizer_class": "LlamaTokenizer"},
    ),
    "llama class, no prefix": lambda f: write(
        f,
        sentencepiece("never"),
        _UNKNOWN | {"tokenizer_class": "LlamaTokenizer", "add_prefix_space": False},
    ),
    "added_tokens_decoder": lambda f: write(
        f,
        byte_level(special=_BARE),
        {"eos_token": "<|im_end|>", "added_tokens_decoder": _added(*SPECIAL, first=300)},
        template=CHATML,
    ),
    "added_tokens.json": lambda f: write(
        f,
        byte_level(special=_BARE),
        template=CHATML,
        added_tokens={name: 300 + i for i, name in enumerate(SPECIAL)},
        special_tokens_map={"eos_token": "<|im_end|>"},
    ),
    "special_tokens_map.json": lambda f: write(
        f,
        byte_level(special=_BARE),
        template=CHATML,
        special_tokens_map={
            "eos_token": {"content": "<|im_end|>", "lstrip": False, "rstrip": False},
            "bos_token": "<|endoftext|>",
            "additional_special_tokens": ["<|im_start|>"],
        },
    ),
    "extra special tokens": lambda f: write(
        f,
        byte_level(special=_BARE),
        {"eos_token": "<|im_end|>", "extra_special_tokens": {"start_token": "<|im_start|>"}},
        template=CHATML.replace("<|im_start|>", "{{ start_token }}"),
    ),
    "bos and eos flags": lambda f: write(
        f,
        byte_level(),
        {
            "bos_token": "<|endoftext|>",
            "eos_token": "<|im_end|>",
            "add_bos_token": True,
            "add_eos_token": True,
        },
    ),
    "odd added tokens": _odd_added_tokens,
    "split special tokens": lambda f: write(
        f, byte_level(), {"eos_token": "<|im_end|>", "split_special_tokens": True}, template=CHATML
    ),
    "word piece, clean-up": lambda f: write(
        f,
        _word_piece(),
        {
            "unk_token": "[UNK]",
            "cls_token": "[CLS]",
            "sep_token": "[SEP]",
            "clean_up_tokenization_spaces": True,
        },
        template=CHATML,
    ),
    "unigram, clean-up": lambda f: write(
        f, _unigram(), _UNKNOWN | {"clean_up_tokenization_spaces": True}
    ),
    "byte-level, cleaning without effect": lambda f: write(
        f, byte_level(), {"eos_token": "<|im_end|>", "clean_up_tokenization_spaces": True}
    ),
    "words": lambda f: write(
        f, _word_level(), {"unk_token": "<unk>", "eos_token": "<eos>"}, template=CHATML
    ),
    "truncation and padding": _trained_with_limits,
    "templates in a folder": _templates_in_a_folder,
    "template in tokenizer_config": lambda f: write(
        f, byte_level(), {"eos_token": "<|im_end|>", "chat_template": CHATML}, template=None
    ),
    "named templates": lambda f: write(
        f,
        byte_level(),
        {
            "eos_token": "<|im_end|>",
            "chat_template": [
                {"name": "tool_use", "template": "tools"},
                {"name": "default", "template": CHATML},
            ],
        },
        template=None,
    ),
}
