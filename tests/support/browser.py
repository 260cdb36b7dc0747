"""Debian's Chromium, or Chrome, driven by Playwright; and axe-core, which checks accessibility."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_ROOT = Path(__file__).parents[2]
AXE = _ROOT / "node_modules" / "axe-core" / "axe.min.js"
WAIT_MS = 60_000


def chromium_path() -> str:
    """Return the browser's path, or skip the test."""
    found = next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        pytest.skip("needs a browser: apt-get install chromium")
    return found


@contextmanager
def running_browser() -> Iterator[Browser]:
    """Run a browser without a window."""
    path = chromium_path()
    with sync_playwright() as playwright:
        # Its sandbox needs rights that containers lack; the pages are our own.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


class WatchedPage:
    """A page whose console and requests are kept, to be checked at its end."""

    def __init__(
        self, browser: Browser, url: str, *, width: int = 1440, theme: str = "light"
    ) -> None:
        self.url = url
        self.context = browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme="dark" if theme == "dark" else "light",
        )
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(WAIT_MS)
        self.problems: list[str] = []
        self.outside: list[str] = []
        self.page.on("console", lambda said: self._console(said.type, said.text))
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("request", lambda request: self._request(request.url))
        self.page.goto(f"{url}/")

    def ask(self, prompt: str, **fields: str) -> None:
        """Fill in the form and send it."""
        self.page.fill("#prompt", prompt)
        for name, value in fields.items():
            field = self.page.locator(f"#{name.replace('_', '-')}")
            if field.evaluate("one => one.tagName") == "SELECT":
                field.select_option(value)
            else:
                field.fill(value)
        self.page.click("#send")

    def finish(self) -> str:
        """Wait for the end of the answer; return what the page says about it."""
        self.page.wait_for_selector("#send:enabled")
        return self.page.inner_text("#message")

    def sources(self, within: str) -> list[str]:
        """Return the sources of the shown tokens."""
        script = "spans => spans.map(span => span.dataset.source)"
        found: list[str] = self.page.locator(f"{within} .token").evaluate_all(script)
        return found

    def close(self) -> None:
        """Check what holds for every page, and close it."""
        fits = self.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        self.context.close()
        assert self.problems == []
        assert self.outside == []
        assert fits, "the page scrolls sideways"

    def _console(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.problems.append(text)

    def _request(self, url: str) -> None:
        if not url.startswith(self.url):
            self.outside.append(url)
