"""Requests with several adapters in one engine get the tokens of their merged models."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import pytest
import torch
from transformers import PreTrainedModel

from parallel.batch import SequenceRows
from parallel.group import Group, SoloGroup
from parallel.messages import Submit
from parallel.model.cache import PagedCache
from parallel.model.low_rank import Adapter
from parallel.model.transformer import Decoder
from runtime.groups.threads import ThreadGroup
from runtime.rank.shard import DecoderShard, ShardRunner
from tests.support.peft_adapters import random_adapter
from tests.support.rig import PAGE, VOCAB, Outcome, Rig, make_submit
from tests.support.tiny_transformer import CPU, TinyModel, tiny_model

NUM_PAGES = 400
MODES = ("speculative", "pearl", "autoregressive")


@dataclass(frozen=True)
class Served:
    """A model and three adapters of it, with the model that peft merges each into."""

    model: TinyModel
    adapters: list[Adapter]
    merged: dict[str, PreTrainedModel]

    def shard(self, group: Group) -> DecoderShard:
        config = self.model.config
        decoder = Decoder(config, self.model.source, group, device=CPU)
        cache = PagedCache(
            num_layers=config.num_layers,
            num_kv_heads=decoder.stack.heads.num_kv,
            head_dim=config.head_dim,
            num_pages=NUM_PAGES,
            page_size=PAGE,
        )
        shard = DecoderShard(decoder, cache)
        for adapter in self.adapters:
            shard.add_adapter(adapter)
        return shard

    def expected(self, submit: Submit) -> list[int]:
        """Return the greedy tokens of the merged model alone."""
        text = list(submit.prompt_ids)
        for _ in range(submit.max_tokens):
            with torch.inference_mode():
                logits = self.merged[submit.adapter](torch.tensor([text]), use_cache=False).logits
            text.append(int(logits[0, -1].argmax()))
        return text[len(submit.prompt_ids) :]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    model = tiny_model(vocab_size=VOCAB, max_position_embeddings=400)
    merged, adapters = {"": model.reference}, []
    for number, parts in enumerate((["q_proj", "v_proj"], None, ["o_proj", "down_proj"])):
        settings = {} if parts is None else {"target_modules": parts}
        directory = tmp_path_factory.mktemp("adapters") / f"a{number}@v"
        adapter, whole = random_adapter(model, directory, seed=number, r=4 + number, **settings)
        adapters.append(adapter)
        merged[adapter.name] = whole
    return Served(model, adapters, merged)


@contextmanager
def running(served: Served, *, size: int = 1, num_pages: int = NUM_PAGES) -> Iterator[Rig]:
    """Run an engine on `size` ranks with a drafter of n-grams."""
    groups: Sequence[Group] = [SoloGroup()]
    if size > 1:
        groups = ThreadGroup.make(size, timeout_s=30.0)
    followers = [
        threading.Thread(target=ShardRunner(served.shard(group), group).follow, daemon=True)
        for group in groups[1:]
    ]
    for follower in followers:
        follower.start()
    names = {adapter.name for adapter in served.adapters}
    rig = Rig(model=served.shard(groups[0]), group=groups[0], adapters=names, num_pages=num_pages)
    rig.attach_ngram()
    yield rig
    rig.close()
    for follower in followers:
        follower.join(30.0)
    assert rig.errors == []


def mixed(served: Served, *, max_tokens: int = 24) -> list[Submit]:
    names = ["", *(adapter.name for adapter in served.adapters)]
    prompt = [3, 9, 4, 3, 9, 4, 3, 9]  # one page of four tokens after the other is shared
    return [
        replace(
            make_submit(number, prompt=prompt, mode=MODES[number % 3], max_tokens=max_tokens),
            adapter=names[number % 4],
        )
        for number in range(8)
    ]


def check(served: Served, submits: Sequence[Submit], outcomes: dict[int, Outcome]) -> None:
    for submit in submits:
        assert outcomes[submit.request].failed is None
        assert outcomes[submit.request].token_ids == served.expected(submit)


@pytest.mark.parametrize("size", [1, 2])
def test_three_adapters_and_the_model_alone_share_a_batch(served: Served, size: int) -> None:
    submits = mixed(served)
    with running(served, size=size) as rig:
        outcomes = rig.run(submits)
    check(served, submits, outcomes)
    stats = {s.adapter: outcomes[s.request].finished for s in submits if s.mode != "autoregressive"}
    for adapter, finished in stats.items():
        assert finished is not None
        assert finished.stats.drafted > 0, adapter
    assert sum(f.stats.accepted for f in stats.values() if f is not None) > 0
    texts = {tuple(outcome.token_ids) for outcome in outcomes.values()}
    assert len(texts) == 4  # one for each adapter, one for the model


def test_a_preempted_request_keeps_its_adapter(served: Served) -> None:
    submits = mixed(served, max_tokens=110)[:4]
    with running(served, num_pages=50) as rig:
        outcomes = rig.run(submits)
    check(served, submits, outcomes)
    assert sum(o.finished.stats.preemptions for o in outcomes.values() if o.finished) > 0


def test_another_engine_continues_with_the_adapter(served: Served) -> None:
    submits = mixed(served)
    with running(served) as first:
        whole = first.run(submits)
    resumed = [replace(one, output_ids=tuple(whole[one.request].token_ids[:9])) for one in submits]
    with running(served) as second:
        rest = second.run(resumed)
    for submit in submits:
        assert rest[submit.request].token_ids == whole[submit.request].token_ids[9:]
    check(served, submits, whole)


def test_a_prefix_is_shared_within_one_adapter_only(served: Served) -> None:
    prompt = [(7 * i) % VOCAB for i in range(41)]
    with running(served) as rig:
        for turn, cached in enumerate((0, 40)):
            for number, name in enumerate(("", *(one.name for one in served.adapters))):
                submit = replace(
                    make_submit(4 * turn + number, prompt=prompt, max_tokens=6), adapter=name
                )
                outcome = rig.run([submit])[submit.request]
                assert outcome.token_ids == served.expected(submit)
                assert outcome.finished is not None
                assert outcome.finished.stats.cached_prompt == cached


def test_a_request_for_an_unknown_adapter_is_rejected_and_disturbs_no_other(
    served: Served,
) -> None:
    submits = mixed(served)
    bad = replace(submits[1], request=99, adapter="gone@1")
    with running(served) as rig:
        outcomes = rig.run([*submits[:4], bad, *submits[4:]])
    check(served, submits, outcomes)
    failed = outcomes[99].failed
    assert failed is not None
    assert failed.kind == "ConfigError"
    assert "the adapter gone@1 is not loaded" in failed.message


def test_rows_of_a_prompt_in_chunks_name_the_adapter(served: Served) -> None:
    prompt = [(5 * i) % VOCAB for i in range(60)]
    names = {adapter.name for adapter in served.adapters}
    rig = Rig(model=served.shard(SoloGroup()), adapters=names, prefill_chunk=16)
    submit = replace(make_submit(prompt=prompt, max_tokens=5), adapter=served.adapters[1].name)
    outcome = rig.run([submit])[0]
    rig.close()
    assert outcome.token_ids == served.expected(submit)
    assert SequenceRows(slot=0, start=0, token_ids=(1,), num_logits=0).adapter == ""
