"""`paceline draft index`: build a store of texts for the look-up drafter."""

import json
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from cluster.deploy.target_plan import plan_target
from cluster.options.draft_options import DraftIndexOptions
from cluster.options.model_options import ModelOptions
from parallel.drafting.retrieval import build_store
from runtime.checking.prompt_files import read_texts
from runtime.drafters.lookups.retrieval_files import save_store
from runtime.errors import ConfigError

_NOTES = Console(stderr=True)


def run(options: DraftIndexOptions) -> int:
    """Tokenize the files, sort them into a store and write it; return the exit code.

    Raises:
        ConfigError: a file cannot be read or holds no text.
    """
    target = plan_target(ModelOptions(target=options.target, drafter=None))
    assert target.tokenizer is not None
    with _NOTES.status("reading"):
        texts = [target.tokenizer.encode(text) for text in _texts(options.files)]
        num_tokens = sum(len(text) for text in texts)
    if not num_tokens:
        names = ", ".join(map(str, options.files))
        raise ConfigError(f"{names}: no text; name .txt files, or .jsonl with a text on each line")
    with _NOTES.status(f"sorting {num_tokens} tokens"):
        store = build_store(texts, end=min(target.tokenizer.eos_ids, default=0))
    save_store(options.out, store, vocabulary=target.tokenizer.digest, num_texts=len(texts))
    facts = {"out": str(options.out), "num_texts": len(texts), "num_tokens": len(store.tokens)}
    if options.json:
        print(json.dumps(facts))
    else:
        _NOTES.print(
            f"{options.out}: {len(texts)} texts, {len(store.tokens)} tokens; use it with "
            f"--drafter lookup:ngram+recycle+store={options.out}"
        )
    return 0


def _texts(files: tuple[Path, ...]) -> Iterator[str]:
    for file in files:
        yield from read_texts(file)
