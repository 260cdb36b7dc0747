"""`paceline demo` as a newcomer runs it: it prints a link, the page is there, Ctrl+C ends it."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx

from tests.support.tiny_checkpoint import save_tiny_checkpoint

ROOT = Path(__file__).resolve().parents[3]


def test_the_demo_prints_a_link_to_the_page_and_ends_on_an_interrupt(tmp_path: Path) -> None:
    target = str(save_tiny_checkpoint(tmp_path / "tiny"))
    command = [sys.executable, "-m", "cluster.cli", "demo", "--target", target]
    demo = subprocess.Popen(
        [*command, "--drafter", "ngram", "--set", "models.threads=1"],
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert demo.stderr is not None
    try:
        printed = ""
        for line in demo.stderr:
            printed += line
            if "in a browser" in line:
                break
        link = re.search(r"open (http://127\.0\.0\.1:\d+/) in a browser", printed)
        assert link, printed
        page = httpx.get(link[1], timeout=60)
        assert "<title>Paceline</title>" in page.text
        body = {"prompt": "w1 w2", "max_tokens": 4, "return_token_sources": True}
        answer = httpx.post(f"{link[1]}v1/completions", json=body, timeout=60).json()
        assert len(answer["choices"][0]["token_sources"]) == 4
        demo.send_signal(signal.SIGINT)
        assert demo.wait(timeout=60) == 0
    finally:
        if demo.poll() is None:
            demo.kill()
            demo.wait(timeout=20)
        demo.stderr.close()
