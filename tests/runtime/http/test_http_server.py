"""The server's tokens, TLS, CORS, probes, counts and shutdown, with httpx and curl."""

import contextlib
import shutil
import ssl
import subprocess
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from runtime.errors import ConfigError
from runtime.http.http_app import OPEN_PATHS
from runtime.http.http_server import HttpServer, HttpSettings
from runtime.requests.accepted_tokens import AcceptedTokens
from tests.support.certificates import make_certificates
from tests.support.rig import Rig
from tests.support.serving import Serving, slow_down
from tests.support.waiting import wait_until

ASK = {"model": "toy", "prompt": "w1 w2 w3", "max_tokens": 8, "temperature": 0}


def test_probes_say_whether_the_server_is_alive_and_ready(serving: Serving) -> None:
    assert httpx.get(f"{serving.url}/health").json() == {"status": "alive"}
    assert httpx.get(f"{serving.url}/ready").status_code == 200
    assert httpx.get(f"{serving.url}/version").json() == {"version": "0"}
    serving.gateway.drain()
    response = httpx.get(f"{serving.url}/ready")
    assert (response.status_code, response.json()) == (503, {"status": "draining"})
    assert httpx.get(f"{serving.url}/health").status_code == 200
    response = httpx.post(f"{serving.url}/v1/completions", json=ASK)
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    assert response.json()["error"]["code"] == "service_unavailable"


def test_tokens_and_texts_are_those_of_the_tokenizer(serving: Serving) -> None:
    def post(path: str, **body: Any) -> httpx.Response:
        return httpx.post(f"{serving.url}/{path}", json=body)

    found = post("tokenize", prompt="w4 w5", return_token_strs=True).json()
    assert found == {
        "count": 2,
        "max_model_len": 400,
        "tokens": [4, 5],
        "token_strs": [" w4", " w5"],
    }
    chat = post("tokenize", messages=[{"role": "user", "content": "w4"}]).json()
    assert (chat["tokens"], chat["token_strs"]) == ([4, 40], None)
    assert post("detokenize", tokens=[4, 5]).json() == {"prompt": "w4 w5"}
    for path, body, words in (
        ("tokenize", {}, "give one of `prompt` and `messages`"),
        ("tokenize", {"prompt": "w1", "model": "other"}, "this server has 'toy'"),
        ("tokenize", {"prompt": "w1", "truncate": 3}, "`truncate` is not a field"),
        ("detokenize", {"tokens": [99]}, "`tokens`[0] is 99"),
        ("detokenize", {"tokens": [1] * 401}, "`tokens` has 401 tokens"),
    ):
        assert words in post(path, **body).json()["error"]["message"]


def test_unknown_paths_and_methods_are_answered_in_openais_form(serving: Serving) -> None:
    response = httpx.get(f"{serving.url}/v1/nothing")
    assert (response.status_code, response.json()["error"]["code"]) == (404, "unknown_url")
    response = httpx.get(f"{serving.url}/v1/completions")
    assert (response.status_code, response.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize(
    ("data", "kind", "status", "words"),
    [
        (b"{", "application/json", 400, "not JSON"),
        (b"", "application/json", 400, "the body is empty"),
        (b"[]", "application/json", 400, "expected a JSON object"),
        (b'{"prompt": "\xff"}', "application/json", 400, "not UTF-8: byte 12"),
        (b'{"prompt": "w1", "prompt": "w2"}', "application/json", 400, "occurs twice"),
        (b'{"prompt": "w1", "temperature": NaN}', "application/json", 400, "NaN"),
        (b'{"prompt": "\\ud800"}', "application/json", 400, "surrogate"),
        (b"[" * 100_000, "application/json", 400, "nest"),
        (b'{"prompt": "w1"}', "text/plain", 415, "is 'text/plain'"),
        (b'{"prompt": "w1"}', "application/x-www-form-urlencoded", 415, "send application/json"),
    ],
)
def test_a_body_that_is_not_a_json_object_is_rejected(
    serving: Serving, data: bytes, kind: str, status: int, words: str
) -> None:
    for path in ("/v1/completions", "/v1/chat/completions", "/tokenize"):
        response = httpx.post(f"{serving.url}{path}", content=data, headers={"content-type": kind})
        assert response.status_code == status
        assert words in response.json()["error"]["message"]


def test_a_body_beyond_the_limit_is_not_read(rig: Rig) -> None:
    serving = Serving(rig, http={"max_body_bytes": 1000})
    url = f"{serving.url}/v1/completions"
    response = httpx.post(url, json=ASK | {"prompt": "w1 " * 1000})
    assert (response.status_code, response.headers["connection"]) == (413, "close")
    chunks = (b"x" * 100 for _ in range(10**9))  # without a length
    kind = {"content-type": "application/json"}
    with contextlib.suppress(httpx.TransportError):  # it ends while the client still sends
        assert httpx.post(url, content=chunks, headers=kind, timeout=30).status_code == 413
    assert httpx.post(url, json=ASK).status_code == 200
    serving.close()


def test_a_token_is_needed_everywhere_but_for_probes(rig: Rig) -> None:
    serving = Serving(rig, http={}, tokens=("secret",), admin_tokens=("root",))
    for headers in ({}, {"authorization": "Bearer other"}, {"authorization": "Basic secret"}):
        for method, path in (
            ("GET", "/v1/models"),
            ("GET", "/metrics"),
            ("POST", "/v1/completions"),
            ("POST", "/tokenize"),
            ("GET", "/nothing"),
        ):
            response = httpx.request(method, f"{serving.url}{path}", headers=headers)
            assert response.status_code == 401
            assert response.headers["www-authenticate"] == "Bearer"
            assert response.json()["error"]["code"] == "invalid_api_key"
        for path in OPEN_PATHS:
            assert httpx.get(f"{serving.url}{path}", headers=headers).status_code == 200
    assert serving.gateway.metrics.num_rejected == 3
    for token in ("secret", "root"):
        headers = {"authorization": f"Bearer {token}"}
        assert httpx.post(f"{serving.url}/v1/completions", json=ASK, headers=headers).is_success
    serving.close()


def test_a_client_is_the_same_over_both_wires(rig: Rig, serving: Serving) -> None:
    slow_down(rig, 0.01)
    body = ASK | {"max_tokens": 100, "stream": True, "request_id": "mine", "ignore_eos": True}
    with httpx.stream("POST", f"{serving.url}/v1/completions", json=body) as response:
        lines = response.iter_lines()
        next(lines)
        (request,) = serving.gateway._table.requests
        assert request.client == "ipv4:127.0.0.1"  # what gRPC calls the same peer
        assert serving.call(_cancel(serving)) is True
        assert any('"finish_reason":"cancelled"' in line for line in lines)


async def _cancel(serving: Serving) -> bool | None:
    return serving.server.admission.cancel("ipv4:127.0.0.1", "mine")


def test_pages_of_other_origins_may_call_only_by_option(rig: Rig, serving: Serving) -> None:
    page = {"origin": "https://chat.example"}
    asks = page | {
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type",
    }
    response = httpx.get(f"{serving.url}/v1/models", headers=page)
    assert "access-control-allow-origin" not in response.headers
    assert httpx.options(f"{serving.url}/v1/completions", headers=asks).status_code == 405
    other = Serving(rig, http={"origins": ("https://chat.example",)}, tokens=("secret",))
    response = httpx.options(f"{other.url}/v1/completions", headers=asks)
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == "https://chat.example"
    denied = httpx.post(f"{other.url}/v1/completions", json=ASK, headers=page)
    assert denied.status_code == 401
    assert denied.headers["access-control-allow-origin"] == "https://chat.example"
    stranger = asks | {"origin": "https://evil.example"}
    assert httpx.options(f"{other.url}/v1/completions", headers=stranger).status_code == 400
    other.close()


def test_https_requires_the_authority_and_the_clients_certificate(rig: Rig, tmp_path: Path) -> None:
    made = make_certificates(tmp_path)
    files = {"certificate": made / "server.pem", "private_key": made / "server.key"}
    serving = Serving(rig, http=files | {"client_ca": made / "authority.pem"})
    context = ssl.create_default_context(cafile=str(made / "authority.pem"))
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{serving.url}/health", verify=context)
    context.load_cert_chain(made / "client.pem", made / "client.key")
    answer = httpx.post(f"{serving.url}/v1/completions", json=ASK, verify=context).json()
    assert answer["choices"][0]["finish_reason"] == "length"
    stranger = ssl.create_default_context(cafile=str(made / "stranger.pem"))
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(f"{serving.url}/health", verify=stranger)
    with pytest.raises(httpx.TransportError):
        httpx.get(serving.url.replace("https", "http") + "/health")
    serving.close()


def test_the_page_for_prometheus_counts_requests_and_responses(serving: Serving) -> None:
    for body in (ASK, ASK, ASK | {"temperature": -1}):
        httpx.post(f"{serving.url}/v1/completions", json=body)
    httpx.get(f"{serving.url}/{'x' * 50}")
    page = httpx.get(f"{serving.url}/metrics")
    assert page.headers["content-type"].startswith("text/plain")
    values = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page.text)
        for sample in family.samples
    }
    name, model = "paceline_http_responses_total", ("model_name", "")
    assert values[name, model, ("path", "/v1/completions"), ("status", "200")] == 2
    assert values[name, model, ("path", "/v1/completions"), ("status", "400")] == 1
    assert values[name, model, ("path", "other"), ("status", "404")] == 1
    assert values["paceline_requests_total", ("finished_reason", "length"), model] == 2
    assert values["paceline_requests_rejected_total", model, ("reason", "invalid")] == 1


def test_draining_finishes_streams_and_a_cut_one_ends_with_an_error(rig: Rig) -> None:
    slow_down(rig, 0.01)
    serving = Serving(rig, http={})
    url = f"{serving.url}/v1/completions"
    body = ASK | {"max_tokens": 30, "stream": True}
    with httpx.stream("POST", url, json=body) as response:
        lines = response.iter_lines()
        next(lines)
        stopping = threading.Thread(target=serving.stop, args=(20.0,))
        stopping.start()
        assert list(lines)[-2] == "data: [DONE]"
    stopping.join(timeout=30)
    with pytest.raises(httpx.ConnectError):
        httpx.get(url)
    serving.close()
    serving = Serving(rig, http={})
    url, body = f"{serving.url}/v1/completions", ASK | {"max_tokens": 300, "stream": True}
    with httpx.stream("POST", url, json=body) as response:
        lines = response.iter_lines()
        next(lines)
        stopping = threading.Thread(target=serving.stop)
        stopping.start()
        rest = list(lines)
        assert '"code":"service_unavailable"' in rest[-2]
        assert "data: [DONE]" not in rest
    stopping.join(timeout=30)
    serving.close()


def test_an_address_in_use_is_an_error(serving: Serving) -> None:
    assert serving.http is not None
    settings = HttpSettings(address=serving.http.address, tokens=AcceptedTokens())
    other = HttpServer(serving.server.admission, settings)
    with pytest.raises(ConfigError, match=r"`http` is '127.0.0.1:[0-9]+': the port is in use"):
        serving.call(other.start())
    serving.call(other.stop())


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_curl_streams_the_answer(serving: Serving) -> None:
    command = [
        "curl",
        "-sSN",
        f"{serving.url}/v1/completions",
        "-H",
        "content-type: application/json",
    ]
    body = '{"model": "toy", "prompt": "w1 w2 w3", "max_tokens": 4, "stream": true}'
    done = subprocess.run([*command, "-d", body], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    events = done.stdout.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    assert all(event.startswith("data: {") for event in events[:-2])
    wait_until(lambda: serving.gateway.num_open == 0)
