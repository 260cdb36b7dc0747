"""Errors have the status and the form that OpenAI's clients read."""

import pytest

from runtime.errors import ConfigError, DeadlineExceeded, InvalidValue, PacelineError, PeerLost
from runtime.gateway.limits import CallDenied, GatewayBusy, GatewayDown, RequestRejected
from runtime.http.http_errors import HttpRejection, error_body, error_response


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (InvalidValue("`n` is 0"), 400, "invalid_request_error"),
        (ConfigError("no chat template"), 400, "invalid_request_error"),
        (RequestRejected("the name is taken"), 400, "invalid_request_error"),
        (HttpRejection(404, "no such model"), 404, "invalid_request_error"),
        (CallDenied("no token"), 401, "invalid_request_error"),
        (GatewayBusy("full"), 429, "rate_limit_error"),
        (GatewayDown("draining"), 503, "service_unavailable_error"),
        (DeadlineExceeded("late"), 504, "timeout_error"),
        (PeerLost("the engine died"), 500, "server_error"),
        (PacelineError("failed"), 500, "server_error"),
    ],
)
def test_an_error_has_a_status_a_kind_and_its_message(
    error: PacelineError, status: int, kind: str
) -> None:
    response = error_response(error)
    assert response.status_code == status
    body = error_body(error)["error"]
    assert (body["message"], body["type"]) == (str(error), kind)
    assert ("retry-after" in response.headers) == (status in (429, 503))


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ("`top_p` is 2", "top_p"),
        ("`stop`[0] is empty", "stop"),
        ("messages[1].role is 'x'", "messages[1]"),
        ("prompt has 9 tokens", "prompt"),
        ("the prompt has no tokens", None),
    ],
)
def test_an_invalid_request_names_its_field(message: str, param: str | None) -> None:
    assert error_body(InvalidValue(message))["error"]["param"] == param
