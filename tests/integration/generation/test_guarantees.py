"""What constraints promise, on SmolLM2 in a real deployment: schemas, members that exist, ends."""

import importlib.util
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.deploy.deployment import Deployment
from cluster.deploy.driver_session import Result
from examples.jedi_members import CODE, members
from parallel.decoding.types import ConstraintKind, ConstraintSpec, SamplingParams
from parallel.messages import Submit
from runtime.models.tokenizer import Tokenizer
from tests.integration.conftest import Deploy
from tests.support.integration.runs import make_submits, run
from tests.support.models import smollm2_directory
from tests.support.schema_set import read_cases, validator

pytestmark = pytest.mark.slow
MONITOR = "examples.jedi_members:members"
NUM_SAMPLES = 50


@pytest.fixture(scope="module")
def directory() -> Path:
    return smollm2_directory()


@pytest.fixture(scope="module")
def tokenizer(directory: Path) -> Tokenizer:
    return Tokenizer.load(directory)


@pytest.fixture(scope="module")
def deployment(deploy: Deploy) -> Deployment:
    return deploy(drafter="lookup", monitors=(MONITOR,), max_batch=8)


def bound(submit: Submit, spec: ConstraintSpec | None, *, seed: int = 0) -> Submit:
    sampling = SamplingParams(temperature=1.0, seed=seed, constraint=spec)
    return replace(submit, sampling=sampling, ignore_eos=False, draft_length=None)


def outputs(deployment: Deployment, submits: Sequence[Submit]) -> list[Result]:
    found = sorted(run(deployment, submits), key=lambda one: one.submit.request)
    assert len(found) == len(submits)
    return found


@pytest.mark.parametrize("closes", [False, True])
def test_every_finished_answer_conforms_to_its_schema(
    deployment: Deployment, tokenizer: Tokenizer, *, closes: bool
) -> None:
    cases = read_cases()
    prompt = tuple(tokenizer.encode_chat([{"role": "user", "content": "Write some JSON."}]))
    submits = [
        bound(
            submit,
            ConstraintSpec(
                kind=ConstraintKind.JSON_SCHEMA, text=json.dumps(case.schema), close=closes
            ),
            seed=number,
        )
        for number, (submit, case) in enumerate(
            zip(
                make_submits([prompt] * len(cases), mode="speculative", max_tokens=100),
                cases,
                strict=True,
            )
        )
    ]
    ends: Counter[str] = Counter()
    for case, result in zip(cases, outputs(deployment, submits), strict=True):
        if result.error:
            ends["refused"] += 1
            assert "`json_schema` cannot be used" in result.error or "`close`" in result.error
            continue
        ends[f"{result.reason}, {'complete' if result.complete else 'cut'}"] += 1
        if result.complete:
            text = tokenizer.decode(result.token_ids)
            validator(case.schema).validate(json.loads(text))
    print(dict(ends))
    finished = sum(num for end, num in ends.items() if end.endswith("complete"))
    assert finished > len(cases) / 3
    if closes:
        assert not [end for end in ends if end.endswith("cut")]


def test_members_that_a_monitor_checks_all_exist(
    deployment: Deployment, tokenizer: Tokenizer
) -> None:
    if importlib.util.find_spec("jedi") is None:
        pytest.skip("jedi is not installed")
    space: dict[str, type] = {}
    exec(CODE.rpartition("\n\ndef pay")[0], space)  # the example's own class
    known = {*dir(space["Basket"]()), "items"}
    prompt = tuple(tokenizer.encode(CODE))
    spec = ConstraintSpec(kind=ConstraintKind.MONITOR, text=MONITOR)
    num_illegal = {}
    for monitored in (True, False):
        submits = make_submits([prompt] * NUM_SAMPLES, mode="pearl", max_tokens=16)
        results = outputs(
            deployment,
            [
                bound(submit, spec if monitored else None, seed=seed)
                for seed, submit in enumerate(submits)
            ],
        )
        assert [one.error for one in results] == [None] * NUM_SAMPLES
        texts = [tokenizer.decode(one.token_ids) for one in results]
        num_illegal[monitored] = sum(not first_exists(text, known) for text in texts)
        if monitored:
            assert [text for text in texts if not all_exist(text)] == []
    print(f"illegal members: {num_illegal[True]} with the monitor, {num_illegal[False]} without")
    assert num_illegal[True] == 0
    assert num_illegal[False] > 0


def first_exists(text: str, known: set[str]) -> bool:
    """Return whether the text begins with the name of a member."""
    word = re.match(r"\w*", text)
    return word is not None and word[0] in known


def all_exist(text: str) -> bool:
    """Return whether each member in a text is one that jedi knows, or whose object it does not."""
    for found in re.finditer(r"\.(\w+)", "." + text):
        legal = members(CODE + text[: found.start()])
        is_cut = found.end() == len(text) + 1
        word = found[1]
        if legal is None or word in legal or (is_cut and any(o.startswith(word) for o in legal)):
            continue
        return False
    return True
