from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import ClassVar

import pytest

from parallel.decoding.constraint import ConstraintBroken, Mask
from parallel.decoding.types import ConstraintKind, ConstraintSpec, SamplingParams
from parallel.messages import Cancel, Failed, Finished, Message, Submit
from runtime.constraints.compiler import Compiled
from runtime.links.link import Link
from tests.support.automata import AutomatonState, any_of, seq, text
from tests.support.rig import Rig, make_submit
from tests.support.toy_constraint import END, SPEC, TOKENS, ToyConstraints, constrained_tokens

BOUND = SamplingParams(constraint=SPEC)
Done = Callable[[Compiled], None]


class HeldConstraints(ToyConstraints):
    """Compiles only after `release`."""

    def __init__(self) -> None:
        super().__init__()
        self.held: list[tuple[ConstraintSpec, Done]] = []

    def compile(self, spec: ConstraintSpec, done: Done) -> None:
        self.held.append((spec, done))

    def release(self) -> None:
        for spec, done in self.held:
            super().compile(spec, done)


@pytest.fixture
def held() -> HeldConstraints:
    return HeldConstraints()


@pytest.fixture
def rig(held: HeldConstraints) -> Iterator[Rig]:
    found = Rig(constraints=held, eos_ids=frozenset((END,)))
    yield found
    found.close()
    assert held.is_closed


def answers(link: Link, num: int) -> list[Message]:
    found: list[Message] = []
    while sum(isinstance(one, Finished | Failed) for one in found) < num:
        message = link.recv(10.0)
        assert message is not None
        found.append(message)
    return found


def bound(request: int, **changes: object) -> Submit:
    return replace(make_submit(request, sampling=BOUND), **changes)  # type: ignore[arg-type]


def test_other_requests_run_while_a_constraint_is_compiled(rig: Rig, held: HeldConstraints) -> None:
    link = rig.driver()
    link.send(bound(1))
    link.send(make_submit(2, max_tokens=5))
    assert [one.request for one in answers(link, 1) if isinstance(one, Finished)] == [2]
    assert len(held.held) == 1
    held.release()
    *tokens, end = answers(link, 1)
    assert isinstance(end, Finished)
    expected, is_complete = constrained_tokens(bound(1))
    assert [token for one in tokens for token in one.token_ids] == expected  # type: ignore[union-attr]
    assert end.complete == is_complete


def test_a_request_that_is_cancelled_while_it_is_compiled_never_runs(
    rig: Rig, held: HeldConstraints
) -> None:
    link = rig.driver()
    link.send(bound(1))
    link.send(Cancel(request=1))
    link.send(bound(2))
    (end,) = answers(link, 1)
    assert (end.request, end.reason) == (1, "cancelled")  # type: ignore[union-attr]
    held.release()
    ends = [one for one in answers(link, 1) if isinstance(one, Finished)]
    assert [one.request for one in ends] == [2]


@pytest.mark.parametrize(
    ("submit", "problem"),
    [
        (bound(1, ignore_eos=True), "`ignore_eos` continues after the end"),
        (bound(1, output_ids=(5,)), "the output so far is illegal"),
        (
            bound(
                1,
                sampling=SamplingParams(
                    constraint=ConstraintSpec(kind=ConstraintKind.REGEX, text="(")
                ),
            ),
            "`regex` cannot be used",
        ),
    ],
)
def test_a_request_that_its_constraint_rules_out_is_rejected(submit: Submit, problem: str) -> None:
    rig = Rig(constraints=ToyConstraints(), eos_ids=frozenset((END,)))
    try:
        failed = rig.run([submit])[1].failed
    finally:
        rig.close()
    assert failed is not None
    assert failed.kind == "ConfigError"
    assert problem in failed.message


@pytest.mark.parametrize(
    ("rig", "problem"),
    [
        (lambda: Rig(), "a constraint needs a tokenizer"),
        (lambda: Rig(constraints=ToyConstraints()), "the model has no end token"),
    ],
)
def test_a_model_that_cannot_keep_a_constraint_rejects_it(
    rig: Callable[[], Rig], problem: str
) -> None:
    made = rig()
    try:
        failed = made.run([bound(1)])[1].failed
    finally:
        made.close()
    assert failed is not None
    assert problem in failed.message


def run_with(start: AutomatonState, submits: Sequence[Submit]) -> dict[int, object]:
    rig = Rig(constraints=ToyConstraints(start), eos_ids=frozenset((END,)))
    try:
        return dict(rig.run(submits))
    finally:
        rig.close()


def test_an_output_that_no_token_can_continue_fails_by_itself() -> None:
    dead = AutomatonState(seq(text("ab"), any_of("!")), TOKENS)  # no token has a "!"
    found = run_with(dead, [bound(1), make_submit(2, max_tokens=5)])
    failed = found[1].failed  # type: ignore[attr-defined]
    assert failed.kind == "PacelineError"
    assert failed.message == (
        "the output cannot continue under its constraint: the constraint leaves no token that may "
        "follow"
    )
    assert found[2].finished is not None  # type: ignore[attr-defined]


class Shared(AutomatonState):
    """Fails for good once one mask was computed, as a lexer does that meets a limit."""

    spoiled: ClassVar[list[bool]] = []

    def mask(self) -> Mask:
        found = super().mask()
        self.spoiled.append(True)
        return found

    def advance(self, token: int) -> "Shared":
        if self.spoiled:
            raise ConstraintBroken("a limit of constraints is reached")
        return Shared(super().advance(token).language, self.tokens)


def test_a_request_whose_constraint_another_one_has_spoiled_fails_by_itself() -> None:
    Shared.spoiled.clear()
    found = run_with(Shared(text("abcdefgh"), TOKENS), [bound(1), make_submit(2, max_tokens=5)])
    failed = found[1].failed  # type: ignore[attr-defined]
    assert failed.kind == "PacelineError"
    assert failed.message == (
        "the output cannot continue under its constraint: a limit of constraints is reached"
    )
    assert found[2].finished is not None  # type: ignore[attr-defined]


def test_an_output_that_is_cut_says_so() -> None:
    found = run_with(AutomatonState(text("abcdefgh"), TOKENS), [bound(1, max_tokens=2)])
    end = found[1].finished  # type: ignore[attr-defined]
    assert (end.reason, end.complete) == ("length", False)


def test_a_request_without_a_constraint_says_nothing_of_it() -> None:
    found = run_with(AutomatonState(text("a"), TOKENS), [make_submit(1, max_tokens=3)])
    assert found[1].finished.complete is None  # type: ignore[attr-defined]
