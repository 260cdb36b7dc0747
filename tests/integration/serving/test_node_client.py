"""OpenAI's client for Node gets the tokens, texts and errors that gRPC gives."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.client import Client
from tests.support.rig import Rig
from tests.support.serving import CHAT_TEMPLATE, Serving, slow_down, toy_tokenizer
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "tests" / "support" / "integration" / "node_client.mjs"
pytestmark = pytest.mark.skipif(
    shutil.which("node") is None or not (ROOT / "node_modules" / "openai").exists(),
    reason="needs Node and its client: npm install --no-save openai",
)


@pytest.fixture
def serving() -> Iterator[Serving]:
    rig = Rig(tokenizer=toy_tokenizer())
    rig.attach_model(noise=0.2)
    slow_down(rig, 0.003)
    made = Serving(rig, http={}, tokenizer=toy_tokenizer(chat_template=CHAT_TEMPLATE))
    yield made
    made.close()
    rig.close()
    assert not rig.errors


def test_the_official_client_for_node_gets_the_answers_of_grpc(serving: Serving) -> None:
    command = ["node", str(SCRIPT), f"{serving.url}/v1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    wait_until(lambda: serving.gateway.num_open == 0)  # the last stream was left

    def expected(prompt: Any, **fields: Any) -> list[tuple[list[int], str]]:
        """Return the tokens and the text of each sample."""
        samples: list[tuple[list[int], str]] = [([], "") for _ in range(fields.get("n", 1))]
        with Client(serving.address) as client:
            for chunk in client.generate(prompt, max_tokens=16, temperature=0.8, seed=5, **fields):
                ids, text = samples[chunk.sample]
                samples[chunk.sample] = ([*ids, *chunk.token_ids], text + chunk.text)
        return samples

    def got(choice: dict[str, Any]) -> tuple[list[int], str]:
        text = choice["text"] if "text" in choice else choice["message"]["content"]
        return choice["token_ids"], text

    (plain,) = expected("w1 w2 w3")
    assert [got(choice) for choice in found["completion"]["choices"]] == [plain]
    assert found["completion"]["usage"]["speculation"]["accepted_tokens"] > 0
    samples = expected("w1 w2 w3", n=2, stop=["w7"])
    assert [got(choice) for choice in found["samples"]["choices"]] == samples
    (chat,) = expected([{"role": "user", "content": "w1 w2 w3"}])
    (choice,) = found["chat"]["choices"]
    assert got(choice) == chat
    assert [len(entry["top_logprobs"]) for entry in choice["logprobs"]["content"]] == [2] * 16
    ids = [token for part in found["streamed"] for token in part["token_ids"]]
    assert (ids, "".join(part["text"] for part in found["streamed"])) == plain
    *chunks, last = found["streamedChat"]
    deltas = [chunk["choices"][0]["delta"].get("content", "") for chunk in chunks]
    assert "".join(deltas) == chat[1]
    assert last["usage"]["completion_tokens"] == 16
    assert found["models"] == ["toy"]
    wrong = found["errors"]["temperature"]
    assert (wrong["kind"], wrong["status"]) == ("BadRequestError", 400)
    assert "`temperature` is -1" in wrong["message"]
    wrong = found["errors"]["model"]
    assert (wrong["kind"], wrong["code"]) == ("NotFoundError", "model_not_found")
    assert found["left"] > 0
