"""TLS and client certificates, over a toy engine."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.errors import ConfigError
from runtime.service.client import Client, Credentials, ServiceError
from tests.certificates import make_certificates
from tests.rig import Rig
from tests.runtime.service.serving import Serving


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
            chunks = list(client.generate("w1 w2 w3", max_attempts=1, timeout_s=10))
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


def test_a_server_whose_certificate_is_over_is_not_trusted(rig: Rig, certificates: Path) -> None:
    serving = Serving(
        rig, certificate=certificates / "expired.pem", private_key=certificates / "expired.key"
    )
    try:
        assert not speaks(serving.address, Credentials(root_ca=certificates / "authority.pem"))
    finally:
        serving.close()


def test_a_server_may_ask_for_a_certificate(rig: Rig, certificates: Path) -> None:
    serving = Serving(
        rig,
        certificate=certificates / "server.pem",
        private_key=certificates / "server.key",
        client_ca=certificates / "authority.pem",
    )
    root = certificates / "authority.pem"
    try:
        for name, comes_through in (("client", True), ("stranger", False), ("expired", False)):
            credentials = Credentials(
                root_ca=root,
                certificate=certificates / f"{name}.pem",
                private_key=certificates / f"{name}.key",
            )
            assert speaks(serving.address, credentials) == comes_through
        assert not speaks(serving.address, Credentials(root_ca=root))
    finally:
        serving.close()


def test_a_credential_that_cannot_be_read_is_named(rig: Rig, tmp_path: Path) -> None:
    missing = tmp_path / "none.pem"
    with pytest.raises(ConfigError, match=r"none\.pem cannot be read"):
        Serving(rig, certificate=missing, private_key=missing)
