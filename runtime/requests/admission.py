"""Admit requests: read them beside the event loop, and queue them or find them by name."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace

from parallel.messages import Submit
from runtime.gateway.gateway import Gateway
from runtime.gateway.journal import OpenRequest
from runtime.requests.generation_request import GenerationRequest
from runtime.requests.prompt_reader import PromptReader
from runtime.requests.served_model import ServedModel

_MIN_S = 1e-3  # a deadline is never 0


@dataclass(frozen=True, slots=True)
class Admitted:
    """A queued request, and how many tokens of each sample its client already has."""

    request: OpenRequest
    resume_from: tuple[int, ...]


@dataclass(slots=True, eq=False)
class _Arriving:
    client: str
    name: str
    is_cancelled: bool = False


class Admission:
    """Brings the requests of all wires to one gateway."""

    def __init__(self, gateway: Gateway, model: ServedModel, reader: PromptReader) -> None:
        self.gateway = gateway
        self.model = model
        self.reader = reader
        self._arriving: dict[_Arriving, None] = {}

    async def admit(
        self,
        read: Callable[[], GenerationRequest],
        *,
        size_bytes: int,
        client: str,
        name: str,
        time_left_s: Callable[[], float | None] = lambda: None,
    ) -> Admitted:
        """Queue a request, or find the client's request of that name.

        Args:
            read: returns the request from its message; runs in a thread, as the tokenizer does.
            size_bytes: size of the message.
            client: the caller; names are unique for each client.
            name: "" for a request that cannot be resumed.
            time_left_s: returns the seconds to the client's deadline, None without one.

        Raises:
            ConfigError: the request is invalid; names the field, or the unknown model.
            RequestRejected, GatewayBusy, GatewayDown: as `Gateway.submit` does.
        """
        gateway = self.gateway
        if gateway.find(client, name) is None:
            gateway.check_capacity(1, client)
        arriving = _Arriving(client, name)
        self._arriving[arriving] = None
        try:
            asked, submits = await self.reader.run(size_bytes, lambda: self._read(read))
        finally:
            del self._arriving[arriving]
        known = gateway.find(client, name)
        if known is not None and asked.sampling.seed is None:
            submits = tuple(_with_seed(submit, known.seed) for submit in submits)
        left_s = time_left_s()
        timeout_s = None if left_s is None else max(left_s, _MIN_S)
        adapter = self._adapter(asked.sampling.model, known)
        submits = tuple(
            replace(one, client=client, timeout_s=timeout_s, adapter=adapter) for one in submits
        )
        queued = gateway.submit(submits, client=client, name=name)
        if arriving.is_cancelled:
            gateway.cancel(queued)
        return Admitted(queued, asked.resume_from)

    def _adapter(self, model: str | None, known: OpenRequest | None) -> str:
        """Return the version of the adapter that a request gets: one that is known keeps its own.

        Nothing may wait between this and `Gateway.submit`: a version that no request uses may be
        dropped at any time.
        """
        if known is not None:
            submit = known.samples[0].submit
            if submit.adapter_name == ("" if model in (None, self.model.name) else model):
                return submit.adapter
        return self.model.version_of(model)

    def cancel(self, client: str, name: str) -> bool | None:
        """Cancel a request, also one that is not queued yet.

        Returns:
            Whether it was running; None if the client has no request of this name.
        """
        known = self.gateway.find(client, name)
        if known is not None:
            return self.gateway.cancel(known)
        arriving = [
            one for one in self._arriving if name and (one.client, one.name) == (client, name)
        ]
        for one in arriving:
            one.is_cancelled = True
        return True if arriving else None

    def _read(
        self, read: Callable[[], GenerationRequest]
    ) -> tuple[GenerationRequest, tuple[Submit, ...]]:
        asked = read()
        return asked, asked.submits(self.model, seed=secrets.randbits(63))


def _with_seed(submit: Submit, seed: int) -> Submit:
    return replace(submit, sampling=replace(submit.sampling, seed=seed))
