"""TLS and client certificates, over a toy engine."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.client import AsyncClient, Client, Credentials, ServiceError
from runtime.errors import ConfigError
from runtime.training.shared_seed.port import GrpcPort
from tests.support.certificates import make_certificates
from tests.support.rig import Rig
from tests.support.serving import Serving


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    made.attach_model()
    yield made
    made.close()


def speaks(address: str, credentials: Credentials) -> bool:
    """Whether a client comes through; it gives up at once if not."""
    with Client(address, credentials=credentials) as client:
        try:
            chunks = list(client.generate("w1 w2 w3", patience_s=0, timeout_s=10))
        except ServiceError as error:
            return error.code != "UNAVAILABLE"
    return chunks[-1].finish_reason == "length"


def test_a_client_trusts_the_servers_authority_alone(rig: Rig, certificates: Path) -> None:
    serving = Serving(
        rig, certificate=certificates / "server.pem", private_key=certificates / "server.key"
    )
    try:
        assert speaks(serving.address, Credentials(root_ca=certificates / "authority.pem"))
        assert not speaks(serving.address, Credentials(root_ca=certificates / "stranger.pem"))
        assert not speaks(serving.address, Credentials())  # plaintext
    finally:
        serving.close()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (("expired.pem", "expired.key", None), "^certificate .*expired.pem has expired"),
        (("server.pem", "client.key", None), "^private_key .*client.key is not the key of"),
        (("server.pem", None, None), "^certificate needs private_key: give both"),
        ((None, "server.key", None), "^private_key needs certificate: give both"),
        ((None, None, "authority.pem"), "^client_ca needs certificate: give both"),
        (("server.pem", "server.key", "names"), "^client_ca .*names has no usable PEM"),
        (("none.pem", "none.pem", None), r"^certificate .*none\.pem does not exist"),
    ],
)
def test_a_server_does_not_start_with_files_that_cannot_work(
    rig: Rig, certificates: Path, files: tuple[str | None, ...], message: str
) -> None:
    names = ("certificate", "private_key", "client_ca")
    given = {
        name: certificates / file if file else None for name, file in zip(names, files, strict=True)
    }
    with pytest.raises(ConfigError, match=message):
        Serving(rig, **given)


def test_a_server_may_ask_for_a_certificate(rig: Rig, certificates: Path) -> None:
    serving = Serving(
        rig,
        certificate=certificates / "server.pem",
        private_key=certificates / "server.key",
        client_ca=certificates / "authority.pem",
    )
    root = certificates / "authority.pem"
    try:
        for name, comes_through in (("client", True), ("stranger", False)):
            credentials = Credentials(
                root_ca=root,
                certificate=certificates / f"{name}.pem",
                private_key=certificates / f"{name}.key",
            )
            assert speaks(serving.address, credentials) == comes_through
        assert not speaks(serving.address, Credentials(root_ca=root))
    finally:
        serving.close()


def test_tls_without_a_root_trusts_the_authorities_of_this_machine(
    rig: Rig, certificates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serving = Serving(
        rig,
        certificate=certificates / "server.pem",
        private_key=certificates / "server.key",
        client_ca=certificates / "authority.pem",
        tokens=("secret",),
    )
    mine = Credentials(
        token="secret",
        certificate=certificates / "client.pem",
        private_key=certificates / "client.key",
    )
    monkeypatch.delenv("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", raising=False)
    try:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificates / "authority.pem"))
        assert speaks(serving.address, mine)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificates / "stranger.pem"))
        assert not speaks(serving.address, mine)
    finally:
        serving.close()


@pytest.mark.parametrize(
    ("host", "root", "words"),
    [
        ("127.0.0.1", "stranger.pem", "is not trusted: give the authority that signed it"),
        ("localhost", "authority.pem", "certificate is for other hosts"),
        ("127.0.0.1", None, "it may require TLS"),
    ],
)
def test_a_failed_handshake_is_explained_and_a_rejected_certificate_is_not_waited_for(
    rig: Rig, certificates: Path, host: str, root: str | None, words: str
) -> None:
    serving = Serving(
        rig, certificate=certificates / "server.pem", private_key=certificates / "server.key"
    )
    address = serving.address.replace("127.0.0.1", host)
    credentials = Credentials(root_ca=certificates / root if root else None)
    patience_s = 600 if root else 0  # a closed connection may be a server that starts
    try:
        with (
            Client(address, credentials=credentials, patience_s=patience_s) as client,
            pytest.raises(ServiceError, match=words),
        ):
            client.model()
    finally:
        serving.close()


def test_a_server_without_tls_differs_from_one_that_is_away(rig: Rig, certificates: Path) -> None:
    serving = Serving(rig)
    credentials = Credentials(root_ca=certificates / "authority.pem")
    try:
        with (
            Client(serving.address, credentials=credentials, patience_s=600) as client,
            pytest.raises(ServiceError, match="the server does not use TLS: connect without TLS"),
        ):
            client.model()
        with pytest.raises(ConfigError, match="the server does not use TLS"):
            GrpcPort(serving.address, credentials).join("m")
    finally:
        serving.close()


def test_a_client_with_tls_never_sends_its_token_in_plaintext(certificates: Path) -> None:
    heard = bytearray()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(10)
                heard.extend(connection.recv(65536))

        thread = threading.Thread(target=accept)
        thread.start()
        credentials = Credentials(
            token="secret",
            certificate=certificates / "client.pem",
            private_key=certificates / "client.key",
        )
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        assert not speaks(address, credentials)
        thread.join()
    assert heard[0] == 22  # a TLS handshake
    assert b"secret" not in heard


@pytest.mark.parametrize(
    ("credentials", "message"),
    [
        (Credentials(token="secret"), "^the token would travel to 192.0.2.1:1 in plaintext: set"),
        (Credentials(certificate=Path("c.pem")), "^certificate needs private_key"),
        (Credentials(root_ca=Path("none.pem")), "^root_ca none.pem does not exist"),
    ],
)
def test_a_client_that_would_be_unsafe_is_not_made(credentials: Credentials, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Client("192.0.2.1:1", credentials=credentials)
    with pytest.raises(ConfigError, match=message):
        asyncio.run(_make_async("192.0.2.1:1", credentials))


def test_plaintext_to_another_machine_can_be_permitted() -> None:
    Client("192.0.2.1:1", credentials=Credentials(token="secret", plaintext_token=True)).close()
    Client("192.0.2.1:1", credentials=Credentials(token="secret", tls=True)).close()


async def _make_async(address: str, credentials: Credentials) -> None:
    await AsyncClient(address, credentials=credentials).close()
