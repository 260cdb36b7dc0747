"""Constrained requests in every way to decode, and the oracle of their outputs.

The oracle shares nothing with the code under test: transformers gives the logits, an automaton that
runs over the bytes of every token gives the masks.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from parallel.decoding.constraint import masked
from parallel.decoding.rng import request_key
from parallel.decoding.sampling import ranked
from parallel.decoding.score_row import ScoreRow
from parallel.decoding.types import ConstraintSpec, DecodeMode, RngKey, SamplingParams
from parallel.messages import RequestStats, Submit
from runtime.constraints.compilation import compiled, open_tokenizer
from runtime.constraints.compiler import Compiled
from runtime.constraints.grammar_state import GrammarState, KnownTokens
from runtime.constraints.grammar_text import grammar_text
from runtime.errors import InvalidValue
from runtime.rank.shard import ShardRunner
from tests.support.automata import AutomatonState
from tests.support.byte_vocabulary import CASES, END, PADDING, byte_tokens, tokenizer_of
from tests.support.decoding_ways import StoredModel
from tests.support.models import reference_model
from tests.support.rig import make_submit
from tests.support.tiny_transformer import RankThread, on_ranks, tokens
from tests.support.virtual_engine import Fate, VirtualEngine

NUM_TOKENS = 24
LONG = 100
"""Tokens of an output that outgrows the cache which its request gets at first."""
GROUP = 8
"""Requests that one engine serves; each has a drafter of its own, which may die."""
NEAR_TIE = 1e-4
TEMPERATURES = (0.0, 0.8)
VOCABULARY = byte_tokens()
VOCAB = len(VOCABULARY) + PADDING


@dataclass(frozen=True, kw_only=True)
class Way:
    """How constrained requests are served."""

    mode: DecodeMode = DecodeMode.SPECULATIVE
    drafter: str | None = "speculative"
    """What drafts, as a way to decode of `StoredModel.drafter`."""
    knows: bool = True
    """Whether the drafter has the constraint."""
    fates: tuple[Fate, ...] = ()
    """Of the drafter's first answers."""
    resumes: bool = False
    """Whether requests arrive with a part of their output."""
    num_pages: int | None = None
    """Of the target's cache; None is room for all."""


WAYS = {
    "autoregressive": Way(mode=DecodeMode.AUTOREGRESSIVE, drafter=None),
    "speculative": Way(),
    "speculative without the constraint": Way(knows=False),
    "pearl": Way(mode=DecodeMode.PEARL),
    "outcomes": Way(mode=DecodeMode.OUTCOMES),
    "trees": Way(drafter="trees"),
    "look-ups": Way(drafter="lookup"),
    "auto": Way(mode=DecodeMode.AUTO),
    "drafter killed": Way(mode=DecodeMode.PEARL, fates=(*[Fate.ARRIVES] * 3, Fate.DIES)),
    "drafts lost and late": Way(fates=(Fate.ARRIVES, Fate.LOST, Fate.LATE) * 4),
    "resumed": Way(drafter="trees", resumes=True),
    "preempted": Way(mode=DecodeMode.PEARL, num_pages=50),
}


@dataclass(frozen=True, kw_only=True)
class Output:
    """What a request got."""

    token_ids: tuple[int, ...]
    reason: str
    complete: bool | None
    stats: RequestStats


class CompiledConstraints:
    """The constraints of the requests, all compiled."""

    def __init__(self) -> None:
        text = tokenizer_of(VOCABULARY)
        known = KnownTokens(open_tokenizer(text), text.vocab_size, text.end_ids)
        self._starts = {
            spec: GrammarState(compiled(grammar_text(spec), known.tokenizer), known)
            for spec, _ in CASES.values()
        }

    def compile(self, spec: ConstraintSpec, done: Callable[[Compiled], None]) -> None:
        """Return the constraint at once."""
        found = self.find(spec)
        done(InvalidValue("not one of the cases") if found is None else found)

    def find(self, spec: ConstraintSpec) -> GrammarState | None:
        """Return the start of a constraint."""
        return self._starts.get(spec)

    def close(self) -> None:
        """Do nothing."""


def constrained_submits(num: int, *, is_long: bool = False) -> list[Submit]:
    """Return requests with every kind of constraint, greedy ones and sampled ones.

    Args:
        num: of each temperature.
        is_long: whether outputs avoid their end.
    """
    kinds = ("regex", "grammar") if is_long else tuple(CASES)
    found = []
    for number in range(num * len(TEMPERATURES)):
        temperature = TEMPERATURES[number % len(TEMPERATURES)]
        spec, _ = CASES[kinds[number // len(TEMPERATURES) % len(kinds)]]
        narrows = number % 3 == 0 and temperature > 0
        sampling = SamplingParams(
            constraint=spec,
            temperature=temperature,
            top_k=40 if narrows else 0,
            top_p=0.9 if narrows else 1.0,
            logit_bias=((END, -100.0),) if is_long else (),
            seed=number,
        )
        prompt = tokens(5 + number % 7, seed=number, vocab_size=len(VOCABULARY))
        found.append(
            make_submit(
                number,
                prompt=prompt,
                max_tokens=LONG if is_long else NUM_TOKENS,
                draft_length=4 if number % 2 else None,
                sampling=sampling,
            )
        )
    return found


def outputs(
    model: StoredModel,
    way: Way,
    submits: Sequence[Submit],
    constraints: CompiledConstraints,
    *,
    tp: int,
) -> list[Output]:
    """Serve the requests in a way, in groups."""

    def serve(group: RankThread) -> list[Output]:
        found: list[Output] = []
        for first in range(0, len(submits), GROUP):
            some, shard = submits[first : first + GROUP], model.shard(group)
            if group.rank > 0:
                ShardRunner(shard, group).follow()
                continue
            engine = VirtualEngine(
                shard=shard,
                group=group,
                max_batch=GROUP,
                num_pages=way.num_pages or model.num_pages,
                max_positions=shard.max_positions,
                constraints=constraints,
                eos_ids=frozenset((END,)),
            )
            if way.drafter is not None:
                drafter = model.drafter(way.drafter, constraints if way.knows else None)
                assert drafter is not None
                engine.attach(drafter, fates=way.fates)
            driver = engine.run([replace(submit, mode=way.mode) for submit in some])
            for submit in some:
                outcome = driver.outcomes[submit.request]
                assert outcome.finished is not None, outcome.failed
                found.append(
                    Output(
                        token_ids=(*submit.output_ids, *outcome.token_ids),
                        reason=outcome.finished.reason,
                        complete=outcome.finished.complete,
                        stats=outcome.finished.stats,
                    )
                )
        return found

    return on_ranks(tp, serve)[0]


def check_oracle(model: StoredModel, submit: Submit, output: Output) -> int:
    """Check an output token by token; returns the number of near ties in it."""
    spec = submit.sampling.constraint
    language = next(language for known, language in CASES.values() if known == spec)
    state = AutomatonState(language, (*VOCABULARY, *[None] * PADDING))
    text = [*submit.prompt_ids, *output.token_ids]
    num_prompt = len(submit.prompt_ids)
    with torch.inference_mode():
        logits = reference_model(model.directory)(torch.tensor([text]), use_cache=False).logits[0]
    key = RngKey(seed=submit.sampling.seed, request=request_key(submit.prompt_ids, sample_index=0))
    num_ties = 0
    for position, token in enumerate(output.token_ids):
        place = num_prompt + position
        row = masked(ScoreRow(logits[place - 1], None), state, (END,))
        best = ranked(row, submit.sampling, key, position, text[:place], num=2)
        if best[0].token != token:
            assert best[1].token == token, (submit.request, position)
            assert best[0].score - best[1].score < NEAR_TIE, (submit.request, position)
            num_ties += 1
        if token != END:
            state = state.advance(token)
    ended = output.token_ids[-1] == END
    assert output.reason == ("stop" if ended else "length")
    assert ended or len(output.token_ids) == submit.max_tokens
    assert output.complete == state.is_complete
    return num_ties
