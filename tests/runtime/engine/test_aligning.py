"""Which requests share what they learned, and what SmolLM2's samples learn."""

from dataclasses import replace
from functools import cache

import pytest
import torch

from parallel.decoding.alignment import AlignedSample
from parallel.decoding.expected_futures import FutureTree
from parallel.decoding.sampling import sample
from parallel.decoding.score_row import ScoreRow
from parallel.decoding.types import (
    ConstraintKind,
    ConstraintSpec,
    DraftTree,
    RngKey,
    SamplingParams,
    Verdict,
)
from parallel.messages import Submit
from runtime.constraints.compilation import TokenizerText, compiled, open_tokenizer
from runtime.constraints.grammar_state import GrammarState, KnownTokens
from runtime.constraints.grammar_text import grammar_text
from runtime.engine.aligning import Aligning
from runtime.models.tokenizer import Tokenizer
from tests.support.aligned_toys import (
    END,
    Toy,
    Words,
    conditional,
    divergence,
    rows_after,
    sampled_from,
)
from tests.support.automata import walked
from tests.support.models import reference_model, smollm2_directory
from tests.support.rig import make_submit

BITS = ConstraintSpec(kind=ConstraintKind.REGEX, text="00000|1[01]{4}", align=True)
VOCAB = 49152
NUM_SAMPLES = 50


def aligned(**changes: object) -> Submit:
    submit = make_submit(sampling=SamplingParams(temperature=1.0, constraint=BITS))
    return replace(submit, **changes)  # type: ignore[arg-type]  # fields of a request


def tree_of(aligning: Aligning, submit: Submit) -> FutureTree:
    found = aligning.sample_of(submit)
    assert isinstance(found, AlignedSample)
    return found.tree


def test_samples_of_one_prompt_share_what_they_learn_whatever_their_seed() -> None:
    aligning = Aligning()
    tree = tree_of(aligning, aligned())
    seeded = aligned(sampling=replace(aligned().sampling, seed=9), sample_index=3, max_tokens=5)
    assert tree_of(aligning, seeded) is tree
    for other in (
        aligned(prompt_ids=(1, 2)),
        aligned(adapter="a"),
        aligned(stop_token_ids=(7,)),
        aligned(sampling=replace(aligned().sampling, temperature=0.5)),
        aligned(sampling=replace(aligned().sampling, constraint=replace(BITS, text="1"))),
    ):
        assert tree_of(aligning, other) is not tree


def test_other_requests_are_not_aligned() -> None:
    plain = replace(BITS, align=False)
    assert Aligning().sample_of(make_submit()) is None
    masked = make_submit(sampling=SamplingParams(constraint=plain))
    assert Aligning().sample_of(masked) is None


@pytest.fixture(scope="module")
def bits() -> Toy:
    """SmolLM2 after a prompt, under a constraint that has 17 outputs of the tokens 0 and 1."""
    directory = smollm2_directory()
    tokenizer = Tokenizer.load(directory)
    text = TokenizerText(definition=tokenizer.definition, vocab_size=VOCAB, end_ids=(END,))
    tokens = KnownTokens(open_tokenizer(text), VOCAB, (END,))
    start = GrammarState(compiled(grammar_text(BITS), tokens.tokenizer), tokens)
    prompt = tokenizer.encode(
        "Five random bits: 01101\nFive random bits: 00010\nFive random bits: "
    )

    @cache
    def row(prefix: Words) -> ScoreRow:
        with torch.inference_mode():
            logits = reference_model(directory)(torch.tensor([[*prompt, *prefix]])).logits[0, -1]
        return ScoreRow(logits.float(), None)

    return Toy(start, row)


@pytest.mark.slow
def test_samples_of_smollm2_approach_its_own_probabilities(bits: Toy) -> None:
    true = conditional(bits)
    assert len(true) == 17
    tree = FutureTree()
    masked = divergence(true, sampled_from(bits, tree))
    for number in range(NUM_SAMPLES):
        path: Words = ()
        while path[-1:] != (END,):
            rows = rows_after(bits, path, walked(bits.start, path), DraftTree(), tree)
            key = RngKey(seed=2, request=number)
            token = sample(rows[0], bits.sampling, key, len(path))
            rows.learn(Verdict(num_accepted=0, next_token=token), (END,))
            path += (token,)
    found = divergence(true, sampled_from(bits, tree))
    print(f"divergence of masks {masked:.4f}, after {NUM_SAMPLES} samples {found:.6f}")
    assert masked > 0.01
    assert found <= masked / 2
