"""Clients in odd places: forked processes, other loops, closed, interrupted, without a server."""

import asyncio
import os
import pickle
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest

from runtime.client import AsyncClient, Chunk, Client, ClientUnusable, ServiceError
from tests.support.rig import Rig, expected_tokens, make_submit
from tests.support.serving import Serving, slow_down
from tests.support.waiting import wait_until

PROMPT = (1, 2, 3)


def in_child(work: Callable[[], object]) -> str:
    """Return what a forked process reports of the work: its result, or its error."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            notes = repr(work())
        except BaseException as error:
            notes = f"{type(error).__name__}: {error}"
        os.write(theirs, notes.encode())
        os._exit(0)
    os.close(theirs)
    killer = threading.Timer(30, os.kill, (child, signal.SIGKILL))
    killer.start()
    with open(ours, encoding="utf-8") as answers:
        notes = answers.read()
    os.waitpid(child, 0)
    killer.cancel()
    return notes or "it hung"


def test_a_client_in_a_forked_process_says_so_and_never_hangs(rig: Rig, serving: Serving) -> None:
    slow_down(rig, 0.01)
    with Client(serving.address) as client:
        client.model()
        begun = client.generate(PROMPT, max_tokens=30)
        first = next(begun)
        for work in (
            client.model,
            lambda: list(client.generate(PROMPT)),
            lambda: list(begun),
            lambda: client.cancel("x"),
        ):
            notes = in_child(work)
            assert notes.startswith(
                f"ClientUnusable: this client was created in process {os.getpid()}"
            )
            assert "create a client in each process" in notes
        assert in_child(client.close) == "None"
        rest = [token for chunk in begun for token in chunk.token_ids]
        assert [*first.token_ids, *rest] == expected_tokens(make_submit(max_tokens=30))


def test_a_closed_client_says_so(serving: Serving) -> None:
    client = Client(serving.address)
    later = client.generate("w1")
    client.close()
    client.close()
    for use in (client.model, lambda: client.generate("w1"), lambda: next(later), client.status):
        with pytest.raises(ClientUnusable, match="this client is closed: create another one"):
            use()


def test_closing_ends_the_wait_for_a_server_that_is_away() -> None:
    notes = list[str]()
    with socket.create_server(("127.0.0.1", 0)) as taken:  # listens, and answers nothing
        address = f"127.0.0.1:{taken.getsockname()[1]}"
    client = Client(address, on_wait=notes.append)

    def close() -> None:
        wait_until(lambda: notes)
        client.close()

    threading.Thread(target=close).start()
    with pytest.raises(ClientUnusable, match="closed"):
        list(client.generate("w1"))
    assert notes[0].startswith(f"waiting for the server at {address}, at most 120 s")


def test_a_default_client_outlives_a_restart_of_the_server(rig: Rig) -> None:
    first = Serving(rig)
    address = first.address
    first.close()
    notes = list[str]()
    with Client(address, on_wait=notes.append) as client:
        found: list[Any] = []
        asking = threading.Thread(target=lambda: found.append(client.tokenize("w4 w5")))
        asking.start()
        streaming = threading.Thread(
            target=lambda: found.append(list(client.generate(PROMPT, max_tokens=4))[-1])
        )
        streaming.start()
        wait_until(lambda: len(notes) == 2)
        second = Serving(rig, address=address)
        asking.join(30)
        streaming.join(30)
    second.close()
    assert (4, 5) in found
    assert any(getattr(one, "completion_tokens", 0) == 4 for one in found)


def test_a_client_without_patience_gives_up_at_once() -> None:
    with (
        Client("127.0.0.1:1", patience_s=0) as client,
        pytest.raises(ServiceError, match="UNAVAILABLE"),
    ):
        client.model()


def test_an_error_survives_the_way_to_another_process() -> None:
    """As out of a pool of processes, which a result that cannot be restored breaks."""
    with (
        Client("127.0.0.1:1", patience_s=0) as client,
        pytest.raises(ServiceError) as failed,
    ):
        client.model()
    again = pickle.loads(pickle.dumps(failed.value))
    assert isinstance(again, ServiceError)
    assert (again.code, str(again)) == ("UNAVAILABLE", str(failed.value))


def test_a_message_that_is_too_large_is_sent_once(serving: Serving) -> None:
    notes = list[str]()
    with (
        Client(serving.address, on_wait=notes.append) as client,
        pytest.raises(ServiceError, match="RESOURCE_EXHAUSTED"),
    ):
        list(client.generate("w1 " * 6_000_000))
    assert not notes


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ValueError])
def test_an_interrupted_stream_ends_its_request(
    rig: Rig, serving: Serving, error: type[BaseException]
) -> None:
    """A signal strikes inside the generator, which Python then does not close."""
    slow_down(rig, 0.01)
    with Client(serving.address) as client:
        chunks: Any = client.generate(PROMPT, max_tokens=300)
        next(chunks)
        with pytest.raises(error):
            chunks.throw(error())
        wait_until(lambda: serving.gateway.num_open == 0, 5)


def test_closing_does_not_wait_for_one_request_after_the_other() -> None:
    """A server that has stopped answering costs a closing client seconds, not seconds a request."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        client = Client(f"127.0.0.1:{silent.getsockname()[1]}")
        client._running.update(str(number) for number in range(20))
        start_s = time.monotonic()
        client.close()
        assert time.monotonic() - start_s < 20  # one after the other, it is 60


def test_threads_share_a_client(serving: Serving) -> None:
    found: dict[int, list[int]] = {}
    with Client(serving.address) as client:

        def ask(number: int) -> None:
            chunks = client.generate([1, 2, number], max_tokens=12)
            found[number] = [token for chunk in chunks for token in chunk.token_ids]

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    for number in range(12):
        assert found[number] == expected_tokens(make_submit(prompt=(1, 2, number), max_tokens=12))


async def answer(client: AsyncClient) -> list[int]:
    return [t async for chunk in client.generate(PROMPT, max_tokens=4) for t in chunk.token_ids]


def test_an_async_client_made_without_a_loop_connects_on_each_loop_that_runs(
    serving: Serving,
) -> None:
    client = AsyncClient(serving.address)
    expected = expected_tokens(make_submit(max_tokens=4))
    assert asyncio.run(answer(client)) == expected
    assert asyncio.run(answer(client)) == expected
    asyncio.run(client.close())
    with pytest.raises(ClientUnusable, match="closed"):
        asyncio.run(answer(client))


def test_an_async_client_made_in_another_thread_works(serving: Serving) -> None:
    made: list[AsyncClient] = []
    thread = threading.Thread(target=lambda: made.append(AsyncClient(serving.address)))
    thread.start()
    thread.join()
    assert asyncio.run(answer(made[0])) == expected_tokens(make_submit(max_tokens=4))


def test_an_async_client_says_that_another_loop_has_it(serving: Serving) -> None:
    client = AsyncClient(serving.address)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(answer(client))
    with pytest.raises(ClientUnusable, match="another event loop: create a client on each loop"):
        asyncio.run(answer(client))
    loop.run_until_complete(client.close())
    loop.close()


def test_an_async_client_in_a_forked_process_says_so(serving: Serving) -> None:
    async def use() -> str:
        async with AsyncClient(serving.address) as client:
            await answer(client)
            return in_child(lambda: client.generate("w1"))

    assert asyncio.run(use()).startswith("ClientUnusable: this client was created in process")


def test_an_async_client_waits_and_says_so() -> None:
    notes = list[str]()

    async def use() -> None:
        async with AsyncClient("127.0.0.1:1", patience_s=0.3, on_wait=notes.append) as client:
            await answer(client)

    with pytest.raises(ServiceError, match="UNAVAILABLE"):
        asyncio.run(use())
    assert len(notes) == 1


async def read_all(chunks: AsyncIterator[Chunk]) -> None:
    async for _ in chunks:
        pass


def test_closing_an_async_client_ends_its_requests(rig: Rig, serving: Serving) -> None:
    slow_down(rig, 0.01)

    async def use() -> None:
        async with AsyncClient(serving.address) as client:
            streams = [client.generate([1, number], max_tokens=300) for number in range(3)]
            for stream in streams:
                await anext(stream)
        with pytest.raises(ClientUnusable, match="closed"):
            await read_all(streams[0])

    asyncio.run(use())
    wait_until(lambda: serving.gateway.num_open == 0, 5)


def test_a_cancelled_task_ends_its_request(rig: Rig, serving: Serving) -> None:
    slow_down(rig, 0.01)

    async def use() -> None:
        async with AsyncClient(serving.address) as client:
            chunks = client.generate(PROMPT, max_tokens=300)
            await anext(chunks)
            task = asyncio.ensure_future(anext(chunks))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises((asyncio.CancelledError, grpc.RpcError)):
                await task

    asyncio.run(use())
    wait_until(lambda: serving.gateway.num_open == 0, 5)
