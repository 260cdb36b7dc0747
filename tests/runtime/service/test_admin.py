"""Changes of what drafts: one at a time, and finished although their caller left."""

import asyncio
import threading
from typing import Any

from protos.paceline.v1 import service_pb2 as pb
from protos.paceline.v1 import service_pb2_grpc as rpc
from runtime.client import Client
from tests.support.rig import Rig
from tests.support.serving import Serving
from tests.support.waiting import wait_until


class SlowControl:
    """A deployment whose changes wait for a test."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.events: list[str] = []

    def set(self, drafter: str | None) -> str:
        self.events.append(f"begin {drafter}")
        assert self.gate.wait(60)
        self.events.append(f"end {drafter}")
        return drafter or ""

    def set_count(self, num_drafters: int) -> int:
        return num_drafters


def test_a_change_is_finished_before_the_next_although_its_caller_left(rig: Rig) -> None:
    control = SlowControl()
    serving = Serving(rig, control=control)
    with Client(serving.address) as client:
        stub: Any = rpc.AdminServiceStub(client._channel)
        first = stub.SwapDrafter.future(pb.SwapDrafterRequest(drafter="one"))
        wait_until(lambda: control.events == ["begin one"])
        first.cancel()
        second = stub.SwapDrafter.future(pb.SwapDrafterRequest(drafter="two"))
        serving.call(asyncio.sleep(0.1))
        assert control.events == ["begin one"]
        control.gate.set()
        assert second.result(timeout=30).drafter == "two"
        assert control.events == ["begin one", "end one", "begin two", "end two"]
        assert client.model().drafter == "two"
    serving.close()
