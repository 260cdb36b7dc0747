"""Certificates and keys that cannot work are rejected by file and cause."""

import subprocess
from pathlib import Path

import pytest

from runtime.channels.tls_files import TlsNames, read_authority, read_pair, system_roots
from runtime.errors import ConfigError
from tests.support.certificates import make_certificates

FLAGS = TlsNames(certificate="--tls-cert", private_key="--tls-key", authority="--root-ca")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = make_certificates(tmp_path_factory.mktemp("certificates"))
    locked = ("-aes256", "-passout", "pass:secret", "-out", "locked.key")
    subprocess.run(
        ["openssl", "pkey", "-in", "server.key", *locked], cwd=made, check=True, capture_output=True
    )
    (made / "empty.pem").write_bytes(b"")
    (made / "garbage.pem").write_bytes(bytes(range(256)))
    for name, kind in (("server.pem", "pem"), ("server.key", "key")):
        whole = (made / name).read_text()
        (made / f"cut.{kind}").write_text(whole[:60] + whole[100:])
    (made / "remarks.pem").write_text("# TÜRKTRUST\n" + (made / "authority.pem").read_text())
    (made / "both.pem").write_text(
        (made / "server.pem").read_text() + (made / "server.key").read_text()
    )
    return made


def test_a_pair_is_read_as_it_is(folder: Path) -> None:
    pair = read_pair(folder / "server.pem", folder / "server.key", FLAGS)
    assert pair is not None
    assert pair.certificate == (folder / "server.pem").read_bytes()
    assert pair.private_key == (folder / "server.key").read_bytes()
    assert read_pair(folder / "both.pem", folder / "both.pem", FLAGS) is not None
    assert read_pair(None, None, FLAGS) is None


@pytest.mark.parametrize(
    ("certificate", "key", "message"),
    [
        ("server.pem", None, "^--tls-cert needs --tls-key: give both"),
        (None, "server.key", "^--tls-key needs --tls-cert: give both"),
        ("server.pem", "client.key", "^--tls-key .*client.key is not the key of --tls-cert"),
        ("server.key", "server.pem", "^--tls-cert .*server.key has no PEM certificate"),
        ("server.pem", "server.pem", "^--tls-key .*server.pem has no PEM private key"),
        ("empty.pem", "server.key", "^--tls-cert .*empty.pem has no PEM certificate"),
        ("garbage.pem", "server.key", "^--tls-cert .*garbage.pem has no PEM certificate"),
        ("server.pem", "garbage.pem", "^--tls-key .*garbage.pem has no PEM private key"),
        ("cut.pem", "server.key", "^--tls-cert .*cut.pem is damaged"),
        ("server.pem", "cut.key", "^--tls-key .*cut.key is damaged"),
        ("server.pem", "locked.key", "^--tls-key .*locked.key is encrypted: decrypt it"),
        ("expired.pem", "expired.key", "^--tls-cert .*expired.pem has expired: renew it"),
        ("none.pem", "server.key", "^--tls-cert .*none.pem does not exist"),
        ("server.pem", ".", "^--tls-key .* is a directory: name a file"),
    ],
)
def test_a_pair_that_cannot_work_is_rejected(
    folder: Path, certificate: str | None, key: str | None, message: str
) -> None:
    paths = [folder / name if name else None for name in (certificate, key)]
    with pytest.raises(ConfigError, match=message):
        read_pair(paths[0], paths[1], FLAGS)


@pytest.mark.parametrize("name", ["empty.pem", "garbage.pem", "cut.pem", "server.key", "none.pem"])
def test_an_authority_that_cannot_be_used_is_rejected(folder: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=f"^--root-ca .*{name} (has no|does not exist)"):
        read_authority(folder / name, "--root-ca")


def test_an_authority_may_have_remarks_in_any_language(folder: Path) -> None:
    assert read_authority(folder / "remarks.pem", "--root-ca").startswith(b"# T")


def test_the_roots_of_this_machine_are_pem(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.delenv("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", raising=False)
    monkeypatch.setenv("SSL_CERT_FILE", str(folder / "authority.pem"))
    roots = system_roots()
    assert roots is not None
    mine = (folder / "authority.pem").read_text().replace("\n", "")
    assert mine in roots.decode().replace("\n", "")
    monkeypatch.setenv("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", "/some/file")
    assert system_roots() is None
