"""A client belongs to the process that created it, until it is closed."""

import os

import pytest

from runtime.client.owner import ClientUnusable, Owner


def test_the_process_that_created_a_client_may_use_it_until_it_is_closed() -> None:
    owner = Owner()
    assert owner.is_here
    owner.check()
    owner.close()
    with pytest.raises(ClientUnusable, match="is closed: create another one"):
        owner.check()
    assert owner.is_here


def test_a_forked_process_may_not_use_it(monkeypatch: pytest.MonkeyPatch) -> None:
    owner, parent = Owner(), os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: parent + 1)
    assert not owner.is_here
    with pytest.raises(ClientUnusable, match=f"created in process {parent}.*process {parent + 1}"):
        owner.check()
