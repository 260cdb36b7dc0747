"""The leader's process starts whatever becomes of the drafter that is to work in it."""

import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest

from parallel.decoding.types import DecodeMode, SamplingParams, VerifierKind
from parallel.messages import Finished, Hello, Submit
from runtime.drafters.lookups.lookup_settings import LookupSettings
from runtime.engine.engine_limits import EngineConfig
from runtime.errors import ConfigError
from runtime.hosts import leader_host
from runtime.hosts.drafter_spec import (
    InlineDrafterSpec,
    InlineModelDrafterSpec,
    LookupDrafterSpec,
)
from runtime.hosts.leader_host import LeaderHost
from runtime.hosts.model_host import ModelHost
from runtime.hosts.rank_settings import LeaderSettings, ModelSettings
from runtime.links.grpc_link import connect_grpc
from runtime.rank.virtual_shard import VirtualSpec

TARGET = ModelSettings(
    role="target", virtual=VirtualSpec(target_s=0.0, draft_s=0.0, alpha=0.5), cache_tokens=256
)
LEADER = LeaderSettings(
    limits=EngineConfig(vocab_size=1024, max_positions=128, max_batch=16), draft_wait_s=1.0
)
DRAFTER = LookupDrafterSpec(LookupSettings())


@pytest.fixture
def model() -> Iterator[ModelHost]:
    made = ModelHost(TARGET, 0)
    made.open(made.offer("solo", 1, "127.0.0.1"))
    yield made
    made.close()


def failing(error: Exception) -> object:
    def fail(*_: object) -> None:
        raise error

    return fail


def finished(
    leader: LeaderHost, drafter: InlineDrafterSpec, *, mode: DecodeMode, max_tokens: int
) -> Finished:
    """Return the end of one request to a leader, which is then stopped."""
    address = leader.listen(drafter, "127.0.0.1", "secret")
    serving = threading.Thread(target=leader.serve)
    serving.start()
    hello = Hello(role="driver", name="test")
    link = connect_grpc(address, token="secret", hello=hello, timeout_s=20)
    link.send(
        Submit(
            request=1,
            prompt_ids=(1, 2),
            sampling=SamplingParams(),
            mode=mode,
            verifier=VerifierKind.MATCH,
            max_tokens=max_tokens,
            draft_length=2,
        )
    )
    while not isinstance(message := link.recv(20), Finished):
        assert message is not None
    link.close()
    leader.stop(20)
    serving.join(20)
    return message


def test_a_leader_serves_without_an_inline_drafter_that_fails_to_start(
    model: ModelHost, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(leader_host, "build_inline_drafter", failing(MemoryError("out of memory")))
    leader = LeaderHost(model, LEADER, num_threads=1)
    message = finished(leader, DRAFTER, mode=DecodeMode.SPECULATIVE, max_tokens=3)
    assert message.reason == "length"
    assert "the inline drafter failed to start" in caplog.text


def test_a_drafter_that_its_user_has_to_correct_is_rejected(
    model: ModelHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        leader_host, "build_inline_drafter", failing(ConfigError("the store x is damaged"))
    )
    with pytest.raises(ConfigError, match="the store x is damaged"):
        LeaderHost(model, LEADER, num_threads=1).listen(DRAFTER, "127.0.0.1", "secret")


def test_a_model_beside_the_target_drafts_in_a_thread_that_ends_with_the_leader(
    model: ModelHost,
) -> None:
    drafter = InlineModelDrafterSpec(replace(TARGET, role="drafter"), has_thread=True)
    leader = LeaderHost(model, LEADER, num_threads=1)
    message = finished(leader, drafter, mode=DecodeMode.PEARL, max_tokens=40)
    assert message.stats.accepted > 0
    names = {thread.name: thread for thread in threading.enumerate()}
    thread = names.get("inline drafter")
    if thread is not None:
        thread.join(30)
        assert not thread.is_alive()
