"""The version of an installed package, and of code that runs from an upload."""

import re
from importlib.metadata import PackageNotFoundError

import pytest

from runtime import version


def test_an_installed_package_has_the_version_of_its_project() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", version.package_version())


def test_uploaded_code_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(version, "version", missing)
    assert version.package_version() == version.NOT_INSTALLED
