"""Monitors in processes of their own: slow, failing and dying ones end no more than one request."""

from collections.abc import Iterator

import pytest

from parallel.decoding.constraint import ConstraintBroken
from runtime.constraints.line_process import LineProcess
from runtime.constraints.monitor_process import MAX_WORDS, checked_words
from runtime.constraints.monitor_process import __name__ as PROCESS
from runtime.constraints.monitors import Monitor, Monitors
from runtime.errors import InvalidValue
from tests.support.serving import toy_tokenizer

TOYS = "tests.support.toy_monitors"


@pytest.fixture
def opened() -> Iterator[list[Monitor]]:
    found: list[Monitor] = []
    yield found
    for monitor in found:
        monitor.close()


def monitor_of(opened: list[Monitor], name: str, *, timeout_s: float = 30.0) -> Monitor:
    process = LineProcess(PROCESS, [f"{TOYS}:{name}"])
    opened.append(Monitor(name, process, timeout_s=timeout_s))
    return opened[-1]


def test_a_monitor_is_asked_once_for_a_text_and_may_print(opened: list[Monitor]) -> None:
    monitor = monitor_of(opened, "members")
    assert monitor.trigger == b"."
    answer = monitor.ask(b"box.")
    assert answer.wait() == frozenset({b"open", b"empty"})
    assert answer.known() == frozenset({b"open", b"empty"})
    assert monitor.ask(b"box.") is answer
    assert monitor.ask(b"hat.").wait() is None


def test_a_function_may_name_its_trigger(opened: list[Monitor]) -> None:
    monitor = monitor_of(opened, "arrows")
    assert monitor.trigger == b">"
    assert monitor.ask("é>".encode()).wait() == frozenset({b"n2"})


def test_an_error_of_the_function_is_named_and_the_next_text_is_answered(
    opened: list[Monitor],
) -> None:
    monitor = monitor_of(opened, "broken")
    for text in (b"x.", b"y."):
        answer = monitor.ask(text)
        with pytest.raises(
            ConstraintBroken, match="broken failed: ValueError: nothing is known of"
        ):
            answer.wait()
        assert answer.known() == frozenset()


def test_a_late_answer_is_an_error_and_the_process_is_started_again(opened: list[Monitor]) -> None:
    monitor = monitor_of(opened, "hangs", timeout_s=0.5)
    late = monitor.ask(b"slow.")
    with pytest.raises(ConstraintBroken, match=r"hangs (did not answer within|failed: it did not)"):
        late.wait()
    monitor._timeout_s = 30.0
    assert monitor.ask(b"fast.").wait() == frozenset({b"quick"})


def test_a_process_that_ends_is_started_again(opened: list[Monitor]) -> None:
    monitor = monitor_of(opened, "ends")
    with pytest.raises(ConstraintBroken, match="ends failed: its process has ended"):
        monitor.ask(b"end.").wait()
    assert monitor.ask(b"x.").wait() == frozenset({b"alive"})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"a.", "it returned 'a text': return a collection of words"),
        (b"b.", "it returned 'two words': a word has letters"),
        (b"c.", "it returned 7"),
    ],
)
def test_what_is_no_word_is_an_error(opened: list[Monitor], text: bytes, words: str) -> None:
    with pytest.raises(ConstraintBroken, match=words):
        monitor_of(opened, "sentence").ask(text).wait()


def test_words_are_checked() -> None:
    assert checked_words(iter(["a_b", "é2"])) == ["a_b", "é2"]
    with pytest.raises(ValueError, match=f"{MAX_WORDS + 1} words: {MAX_WORDS} at most"):
        checked_words(["w"] * (MAX_WORDS + 1))
    for wrong in ("", "a-b", 3):
        with pytest.raises(ValueError, match="a word has letters, digits and underscores"):
            checked_words([wrong])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nothing", "has no attribute 'nothing'"),
        ("NOT_CALLABLE", "is 3, which cannot be called"),
        ("odd", "trigger is '->': give one ASCII character"),
    ],
)
def test_a_name_that_is_no_monitor_is_rejected(name: str, words: str) -> None:
    with pytest.raises(InvalidValue, match=words):
        Monitor(name, LineProcess(PROCESS, [f"{TOYS}:{name}"]))
    with pytest.raises(InvalidValue, match="write module:function"):
        Monitor(name, LineProcess(PROCESS, [name]))


def test_requests_name_one_of_the_servers_monitors() -> None:
    tokenizer = toy_tokenizer()
    monitors = Monitors([f"{TOYS}:members"], tokenizer, 48)
    try:
        start = monitors.start(f"{TOYS}:members")
        assert monitors.start(f"{TOYS}:members") is start
        assert start.after_prompt((1, 2)).is_complete
        with pytest.raises(InvalidValue, match="`monitor` is 'os:system': the server has tests"):
            monitors.start("os:system")
    finally:
        monitors.close()
    with pytest.raises(InvalidValue, match="the server has none"):
        Monitors([], tokenizer, 48).start("x:y")
