"""Copies of a request's own text where no draft was made for a verdict."""

from parallel.decoding.round_state import Commit
from parallel.decoding.types import DecodeMode, SamplingParams, VerifierKind
from parallel.messages import Submit
from runtime.engine.miss_lookups import MissLookups
from runtime.engine.sequence import DecodingSequence


def sequence_of(*token_ids: int) -> DecodingSequence:
    submit = Submit(
        request=0,
        prompt_ids=token_ids,
        sampling=SamplingParams(),
        mode=DecodeMode.OUTCOMES,
        verifier=VerifierKind.MATCH,
        max_tokens=100,
    )
    return DecodingSequence(1, submit, driver=1, submitted_s=0.0, max_tokens=100)


def commit(*token_ids: int) -> Commit:
    return Commit(token_ids=token_ids, num_drafted=0, num_accepted=0, rejected=False)


def test_the_copy_follows_the_committed_tokens() -> None:
    found = MissLookups().look_up(sequence_of(1, 2, 3, 4, 5, 6, 9), commit(2, 3), 3)
    assert found.token_ids == [4, 5, 6]
    assert found.gains == sorted(found.gains, reverse=True)
    assert 0.3 < found.gains[0] < 1


def test_a_text_that_does_not_repeat_itself_has_none() -> None:
    assert MissLookups().look_up(sequence_of(1, 2, 3), commit(4), 3).token_ids == []


def test_how_often_copies_come_true_is_learned_over_all_requests() -> None:
    lookups, first = MissLookups(), []
    for number in range(30):
        sequence = sequence_of(1, 2, 3, 4, 9)
        sequence.number = number
        first.append(lookups.look_up(sequence, commit(1, 2, 3), 2).gains[0])
        for token in (1, 2, 3):
            sequence.append(token)
        lookups.look_up(sequence, commit(7), 2)  # and not 4
        lookups.forget(number)
    assert first[-1] < 0.6 * first[0]


def test_the_text_grows_with_each_look_up() -> None:
    lookups, sequence = MissLookups(), sequence_of(1, 2, 9)
    assert lookups.look_up(sequence, commit(5), 2).token_ids == []
    for token in (5, 6, 7, 1):
        sequence.append(token)
    assert lookups.look_up(sequence, commit(2), 4).token_ids == [9, 5, 6, 7]


def test_of_a_long_text_the_end_is_indexed() -> None:
    text = [*range(10, 6010), 10]
    assert MissLookups().look_up(sequence_of(*text), commit(11), 2).token_ids == []
    assert MissLookups().look_up(sequence_of(*text), commit(5900), 2).token_ids == [5901, 5902]
