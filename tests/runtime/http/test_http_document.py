"""The examples of docs/http.md run as they are, against a toy in place of the model."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.serving import Serving

DOCUMENT = Path(__file__).parents[3] / "docs" / "http.md"


def blocks(language: str, serving: Serving) -> list[str]:
    """Return the code of the document, for the toy's address, name and words."""
    text = DOCUMENT.read_text(encoding="utf-8")
    found = re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    code = [block.replace("http://127.0.0.1:8000", serving.url) for block in found]
    return [block.replace("smollm2-135m", "toy") for block in code]


def test_the_python_example_prints_an_answer_twice(
    serving: Serving, capsys: pytest.CaptureFixture[str]
) -> None:
    (code,) = blocks("python", serving)
    exec(compile(code, "docs/http.md", "exec"), {})
    whole, _, streamed = capsys.readouterr().out.partition("\n")
    assert len(whole.split()) == len(streamed.split()) == 80


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_the_curl_examples_print_an_answer_and_a_stream(serving: Serving) -> None:
    code, events = blocks("sh", serving)
    done = subprocess.run(["sh", "-ec", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert '"object":"text_completion"' in done.stdout
    assert done.stdout.endswith("data: [DONE]\n\n")
    done = subprocess.run(["sh", "-ec", events], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert done.stdout.startswith('event: status\ndata: {"state":"ready"')
