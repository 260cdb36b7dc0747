"""TLS and client certificates, over a toy engine."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.errors import ConfigError
from runtime.service.client import Client, Credentials, ServiceError
from tests.rig import Rig
from tests.runtime.service.serving import Serving


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two authorities; the first signed a server for 127.0.0.1 and a client."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("certificates")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    for name in ("authority", "stranger"):
        files = ("-keyout", f"{name}.key", "-out", f"{name}.pem", "-subj", f"/CN={name}")
        openssl("req", "-x509", *curve, *files, "-days", "2")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    for name in ("server", "client"):
        files = ("-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        openssl("req", *curve, *files)
        signed = ("-CA", "authority.pem", "-CAkey", "authority.key", "-CAcreateserial")
        made = ("-in", f"{name}.csr", "-out", f"{name}.pem", "-extfile", "names", "-days", "2")
        openssl("x509", "-req", *signed, *made)
    return folder


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


def test_a_credential_that_cannot_be_read_is_named(rig: Rig, tmp_path: Path) -> None:
    missing = tmp_path / "none.pem"
    with pytest.raises(ConfigError, match=r"none\.pem cannot be read"):
        Serving(rig, certificate=missing, private_key=missing)
