"""The page at `/` in a real browser, against a toy engine."""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Response, expect

from tests.support.browser import AXE, WatchedPage, running_browser
from tests.support.rig import Rig
from tests.support.serving import CHAT_TEMPLATE, Serving, slow_down, toy_tokenizer

TEXT = "w1 w2 w3"
Opened = Callable[..., WatchedPage]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with running_browser() as made:
        yield made


@pytest.fixture
def serving() -> Iterator[Serving]:
    rig = Rig(tokenizer=toy_tokenizer())
    rig.attach_model(noise=0.2)
    slow_down(rig, 0.005)
    made = Serving(rig, http={}, tokenizer=toy_tokenizer(chat_template=CHAT_TEMPLATE))
    yield made
    made.close()
    rig.close()
    assert not rig.errors


@pytest.fixture
def opened(browser: Browser, serving: Serving) -> Iterator[Opened]:
    pages: list[WatchedPage] = []

    def open_page(**settings: Any) -> WatchedPage:
        pages.append(WatchedPage(browser, serving.url, **settings))
        pages[-1].page.wait_for_selector("#state[data-state=ready]")
        pages[-1].page.wait_for_selector("#mode option >> nth=2", state="attached")
        return pages[-1]

    yield open_page
    for page in pages:
        page.close()


def reported(response: Response) -> tuple[list[str], str]:
    """Return the sources and the text that the server streamed to the page."""
    lines = [line for line in response.text().split("\n\n") if line.startswith("data: {")]
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines]
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    sources = [source for choice in choices for source in choice["token_sources"]]
    return sources, "".join(choice["delta"].get("content", "") for choice in choices)


@pytest.mark.parametrize(("width", "theme"), [(360, "dark"), (1440, "light")])
def test_a_chat_streams_tokens_in_the_colors_of_the_sources_that_the_api_reports(
    opened: Opened, width: int, theme: str
) -> None:
    shown = opened(width=width, theme=theme)
    page = shown.page
    with page.expect_response("**/v1/chat/completions") as response:
        shown.ask(TEXT, mode="speculative", max_tokens="60")
    page.wait_for_selector("#turns .token >> nth=3")
    assert page.is_disabled("#send")  # it streams: tokens are there before the end
    said = shown.finish()
    sources, text = reported(response.value)
    assert len(sources) == 60
    assert shown.sources("#turns") == sources
    assert len(set(sources)) > 2
    assert page.inner_text("#turns .answer").split() == text.split()
    assert said.startswith("60 tokens, ")
    script = "span => getComputedStyle(span).backgroundColor + getComputedStyle(span).borderBottom"
    for source, number in Counter(sources).items():
        assert page.inner_text(f"#legend b[data-source={source}]") == str(number)
    styles = {s: page.locator(f".token.{s}").first.evaluate(script) for s in set(sources)}
    assert len(set(styles.values())) == len(styles)


def test_the_probability_of_a_token_shows_by_mouse_and_by_keyboard(opened: Opened) -> None:
    shown = opened()
    page = shown.page
    page.focus("#tab-chat")
    page.keyboard.press("ArrowRight")
    assert page.get_attribute("#tab-completion", "aria-selected") == "true"
    shown.ask(TEXT, max_tokens="12")
    assert shown.finish().startswith("12 tokens")
    page.hover("#answers .token >> nth=4")
    detail = page.locator("#detail")
    expect(detail).to_contain_text(re.compile(r"Token 5 of 12 .*probability .* %"))
    page.focus("#answers .answer")
    page.keyboard.press("End")
    expect(detail).to_contain_text("Token 12 of 12")
    page.keyboard.press("ArrowLeft")
    expect(detail).to_contain_text("Token 11 of 12")


def test_a_race_shows_equal_tokens_in_both_lanes_and_replays_them(opened: Opened) -> None:
    shown = opened()
    page = shown.page
    page.click("#tab-race")
    shown.ask(TEXT, mode_a="pearl", mode_b="autoregressive", max_tokens="40", temperature="0.8")
    said = shown.finish()
    assert page.get_attribute("#race", "data-same") == "true"
    assert said.startswith("The same 40 tokens in both lanes.")
    assert re.search(r"was [\d.]+ times as fast as", said)
    texts = page.locator("#race .answer").all_inner_texts()
    assert texts[0] == texts[1]
    assert len(texts[0].split()) == 40
    assert "accepted" in shown.sources("#race [data-mode=pearl]")
    assert set(shown.sources("#race [data-mode=autoregressive]")) == {"plain"}
    page.click("#replay")
    expect(page.locator("#race .token")).to_have_count(80)


def test_the_timeline_and_the_panel_show_what_the_engine_does(opened: Opened) -> None:
    shown = opened()
    page = shown.page
    shown.ask(TEXT, mode="pearl", max_tokens="120")
    shown.finish()
    expect(page.locator("#timeline-summary")).to_contain_text(
        re.compile(r"\d+ rounds in 2 s; target busy [1-9]\d* %.* drafts accepted")
    )
    expect(page.locator("#engine [data-fact=drafter]")).to_have_text("toy")
    expect(page.locator("#engine [data-fact=finished]")).to_have_text("1")
    expect(page.locator("#engine [data-fact=acceptance]")).to_contain_text("%")
    script = """canvas => {
        const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
        const seen = new Set();
        for (let at = 0; at < data.length; at += 4) seen.add(data.slice(at, at + 3).join());
        return seen.size;
    }"""
    assert page.locator("#timeline").evaluate(script) > 5


def test_each_replica_has_its_timeline(browser: Browser) -> None:
    rigs = [Rig(tokenizer=toy_tokenizer()) for _ in range(2)]
    for rig in rigs:
        rig.attach_model(noise=0.2)
        slow_down(rig, 0.005)
    serving = Serving(*rigs, http={}, tokenizer=toy_tokenizer())
    shown = WatchedPage(browser, serving.url, width=360)
    figures = shown.page.locator("#timelines figure")
    try:
        expect(figures).to_have_count(2)
        with ThreadPoolExecutor(4) as pool:
            for number in range(4):  # more than one replica would take alone
                body = {"prompt": f"w{number}", "max_tokens": 300, "ignore_eos": True}
                pool.submit(httpx.post, f"{serving.url}/v1/completions", json=body, timeout=60)
            for number in range(2):
                expect(figures.nth(number).locator("figcaption")).to_have_text(f"Replica {number}")
                expect(figures.nth(number).locator("p")).to_contain_text(
                    re.compile(r"[1-9]\d* rounds in 2 s")
                )
        shown.page.click("#pause")
        shown.page.select_option("#span", "5")
        shown.close()
    finally:
        serving.close()
        for rig in rigs:
            rig.close()


def test_a_stopped_answer_stays_and_what_is_wrong_is_said(opened: Opened) -> None:
    shown = opened()
    page = shown.page
    page.click("#send")
    expect(page.locator("#message")).to_have_text("Write something first.")
    shown.ask("w1 " * 450)
    assert "the prompt has 451 tokens" in shown.finish()
    shown.problems.clear()  # the browser itself reports the status 400
    shown.ask("<img src=x onerror=alert(1)> w2", max_tokens="300")
    page.wait_for_selector("#turns .token >> nth=3")
    page.click("#stop")
    expect(page.locator("#message")).to_have_text("Stopped.")
    assert page.locator("#turns img").count() == 0
    assert 3 < page.locator("#turns .token").count() < 300


def test_a_server_with_tokens_asks_for_one(browser: Browser) -> None:
    rig = Rig(tokenizer=toy_tokenizer())
    serving = Serving(rig, http={}, tokens=("secret",))
    try:
        shown = WatchedPage(browser, serving.url)
        shown.page.wait_for_selector("#state[data-state=locked]")
        shown.page.fill("#token", "secret")
        shown.page.click("#token-form button")
        shown.page.wait_for_selector("#state[data-state=ready]")
        assert all("401" in problem for problem in shown.problems)
        shown.problems.clear()
        shown.close()
    finally:
        serving.close()
        rig.close()


@pytest.mark.skipif(not AXE.exists(), reason="needs axe-core: npm install --no-save axe-core")
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_no_violation(opened: Opened, theme: str) -> None:
    shown = opened(theme=theme)
    page = shown.page
    for task in ("chat", "completion", "race"):
        page.click(f"#tab-{task}")
        shown.ask(TEXT, max_tokens="12")
        shown.finish()
        page.evaluate(AXE.read_text(encoding="utf-8"))
        found = page.evaluate("axe.run()")
        problems = [
            (one["id"], [node["html"] for node in one["nodes"]]) for one in found["violations"]
        ]
        assert problems == []
