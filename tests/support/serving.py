"""A server on a loop in a thread, over a rig's engine; and a wire that is cut on purpose."""

import asyncio
import contextlib
import random
import socket
import threading
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

import tokenizers
from tokenizers import models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from parallel.decoding.types import DecodeMode
from runtime.gateway.gateway import Gateway
from runtime.gateway.limits import GatewayLimits
from runtime.http.http_server import HttpServer, HttpSettings
from runtime.models.tokenizer import Tokenizer
from runtime.models.tokenizer_files import loaded_tokenizer
from runtime.requests.served_model import ServedModel
from runtime.service.server import ServerSettings, ServiceServer
from tests.support.rig import VOCAB, Rig

T = TypeVar("T")


CHAT_TEMPLATE = "{% for message in messages %}{{ message.content }} {% endfor %}w40"


def toy_tokenizer(*special: str, chat_template: str | None = None) -> Tokenizer:
    """Words w0 to w47, some of them special tokens."""
    inner = tokenizers.Tokenizer(
        models.WordLevel({f"w{token}": token for token in range(VOCAB)}, unk_token="w0")
    )
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=inner, extra_special_tokens=list(special))
    fast.chat_template = chat_template
    return Tokenizer(loaded_tokenizer(fast, frozenset()), name="the toy")


def toy_model(tokenizer: Tokenizer | None = None) -> ServedModel:
    """Return the toy as a server serves it."""
    return ServedModel(
        name="toy",
        tokenizer=tokenizer or toy_tokenizer(),
        vocab_size=VOCAB,
        max_positions=400,
        tp=1,
        drafter="toy",
        default_mode=DecodeMode.PEARL,
        default_max_tokens=24,
        version="0",
    )


class Serving:
    """A running server."""

    def __init__(self, *rigs: Rig, **settings: Any) -> None:
        limits = settings.pop("limits", GatewayLimits())
        links = settings.pop("links", None)
        kept = {
            name: settings.pop(name)
            for name in ("recovers", "store", "traffic")
            if name in settings
        }
        control = settings.pop("control", None)
        tracing = settings.pop("tracing", None)
        adapters = settings.pop("adapters", None)
        http = settings.pop("http", None)
        model = toy_model(settings.pop("tokenizer", None))
        self.gateway = Gateway(links or [rig.driver() for rig in rigs], limits, **kept)
        self.server = ServiceServer(
            self.gateway,
            model,
            ServerSettings(**({"address": "127.0.0.1:0"} | settings)),
            control,
            tracing,
            adapters,
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.call(self.server.start())
        self.http: HttpServer | None = None
        if http is not None:
            fields = {"address": "127.0.0.1:0", "tokens": self.server.settings.accepted_tokens}
            settings_of_http = HttpSettings(**(fields | http))
            self.http = HttpServer(self.server.admission, settings_of_http, tracing)
            self.call(self.http.start())
        self._stopped = False

    @property
    def address(self) -> str:
        return self.server.address

    @property
    def url(self) -> str:
        assert self.http is not None
        return self.http.url

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(timeout=60)

    def stop(self, drain_s: float = 0.0) -> bool:
        self._stopped = True
        finished = self.call(self.server.stop(drain_s))
        if self.http is not None:
            self.call(self.http.stop())
        return finished

    def close(self) -> None:
        if not self._stopped:
            self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=60)
        self._loop.close()


def slow_down(rig: Rig, seconds: float) -> None:
    """Delay each forward of the target by at least this long."""
    forward = rig.target.forward

    def slow(rows: Any, width: int) -> Any:
        time.sleep(seconds)
        return forward(rows, width)

    rig.target.forward = slow  # type: ignore[method-assign]


class CutWire:
    """Passes bytes on to a server, and cuts each connection after a random number of them."""

    def __init__(self, address: str, *, seed: int, most: int) -> None:
        host, port = address.rsplit(":", 1)
        self._target = (host, int(port))
        self._rng = random.Random(seed)
        self._most = most
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.num_cuts = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(self._target)
            budget = self._rng.randrange(200, self._most)
            threading.Thread(target=self._pump, args=(near, far, None), daemon=True).start()
            threading.Thread(target=self._pump, args=(far, near, budget), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, budget: int | None) -> None:
        try:
            while data := source.recv(65536):
                if budget is not None and len(data) >= budget:
                    sink.sendall(data[:budget])
                    self.num_cuts += 1
                    break
                sink.sendall(data)
                if budget is not None:
                    budget -= len(data)
        except OSError:
            pass
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
