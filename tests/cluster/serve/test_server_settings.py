"""Bad addresses, tokens and TLS files of a server are reported before a model is read."""

import socket
from pathlib import Path

import pytest

from cluster.cli.main import main
from tests.support.certificates import make_certificates


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = make_certificates(tmp_path_factory.mktemp("certificates"))
    (made / "garbage.pem").write_text("-----BEGIN CERTIFICATE-----\nnone\n")
    (made / "empty").write_text("\ufeff\n")
    (made / "token").write_text("secret\n")
    (made / "spoilt").write_text("good\nb ad\n")
    return made


SERVE = ("serve", "--target", "no-model", "--listen", "127.0.0.1:0")
"""Whatever else uses the default port of this machine; a later --listen counts."""


def rejection(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str
) -> str:
    """Run the command line, expect exit code 2 and return what it complains about."""
    monkeypatch.setattr("sys.argv", ["paceline", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    return " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--tls-cert server.pem", "--tls-cert needs --tls-key: give both"),
        ("--tls-key server.key", "--tls-key needs --tls-cert: give both"),
        ("--set client_ca=authority.pem", "--set client_ca needs --tls-cert: give both"),
        ("--tls-cert server.pem --tls-key client.key", "client.key is not the key of --tls-cert"),
        ("--tls-cert expired.pem --tls-key expired.key", "expired.pem has expired: renew it"),
        ("--tls-cert garbage.pem --tls-key server.key", "garbage.pem is damaged"),
        ("--tls-cert none.pem --tls-key server.key", "none.pem does not exist"),
        ("--token-file empty", "empty has no token"),
        ("--token-file spoilt", "spoilt, line 2: has a space"),
        ("--set admin_token_file=none", "none does not exist"),
        ("--listen 127.0.0.1:99999", "99999': a port is between 0 and 65535"),
        ("--listen 192.0.2.1:0", "0': this machine cannot listen there"),
        ("--set metrics=127.0.0.1:99999", "99999': a port is between 0 and 65535"),
        ("--http 8000", "'8000': write HOST:PORT"),
        ("--http 127.0.0.1:40123 --listen 127.0.0.1:40123", "--listen are both 127.0.0.1:40123"),
        ('--set http_origins=["https://a.example"]', "needs --http: give the address"),
        (
            '--set http_origins=["https://a.example/"] --http 127.0.0.1:0',
            "[0] is 'https://a.example/': write scheme, host and port",
        ),
    ],
)
def test_what_serve_cannot_use_is_rejected_by_flag(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    arguments: str,
    words: str,
) -> None:
    monkeypatch.chdir(folder)
    given = arguments.split()
    printed = rejection(capsys, monkeypatch, *SERVE, *given)
    assert words in printed
    assert any(flag in printed for flag in given[::2])


@pytest.mark.parametrize("flag", ["--listen", "--http", "--set metrics"])
def test_a_taken_port_is_rejected_by_flag(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, flag: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        option, _, key = flag.partition(" ")
        given = f"{key}={address}" if key else address
        printed = rejection(capsys, monkeypatch, *SERVE, option, given)
    assert f"{flag} is '{address}': the port is in use" in printed


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--server localhost", "--server is 'localhost': write HOST:PORT"),
        ("--server http://localhost:1", "--server is 'http://localhost:1': write HOST:PORT"),
        ("--server 192.0.2.1:1 --token-file token", "in plaintext: add --tls to encrypt it"),
        ("--token-file empty", "--token-file empty has no token"),
        ("--set connect.tls_cert=client.pem", "connect.tls_cert needs --set connect.tls_key"),
        (
            "--set connect.tls_cert=client.pem --set connect.tls_key=server.key",
            "connect.tls_key server.key is not the key of",
        ),
        ("--root-ca server.key", "--root-ca server.key has no usable PEM certificate"),
    ],
)
def test_what_a_client_cannot_use_is_rejected_by_flag(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    arguments: str,
    words: str,
) -> None:
    monkeypatch.chdir(folder)
    for verb in (["client", "hi"], ["top", "--once"], ["admin", "drain"]):
        assert words in rejection(capsys, monkeypatch, *verb, *arguments.split())
