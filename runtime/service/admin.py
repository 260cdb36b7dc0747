"""The admin servicer: status, draining, and changes of the drafter and of adapters."""

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol, TypeVar

from protos.paceline.v1 import service_pb2 as pb
from protos.paceline.v1 import service_pb2_grpc as rpc
from runtime.errors import PacelineError
from runtime.gateway.gateway import Gateway
from runtime.gateway.limits import RequestRejected
from runtime.gateway.replica import Replica
from runtime.links.to_wire import put_status
from runtime.requests.served_model import ServedModel
from runtime.service.adapter_admin import AdapterAdmin, AdapterControl
from runtime.service.call import Context
from runtime.service.servicer import reject

_LOG = logging.getLogger("paceline.server")
_T = TypeVar("_T")


class DrafterControl(Protocol):
    """Changes the drafter while requests run."""

    def set(self, drafter: str | None) -> str:
        """Replace the drafter; "" is the one the server was started with, None stops drafting.

        Blocks until the new drafter drafts; returns its name.

        Raises:
            ConfigError: it cannot be used; the old one stays.
            PeerError: it did not start; the old one stays.
        """
        ...

    def set_count(self, num_drafters: int) -> int:
        """Change how many drafters draft side by side; block until they do, return how many do.

        Raises:
            ConfigError: the number is out of range, or this drafter cannot be scaled.
            PeerError: a drafter did not start; the others draft.
        """
        ...


class AdminServicer(rpc.AdminServiceServicer):
    """Administers the server."""

    def __init__(
        self,
        gateway: Gateway,
        model: ServedModel,
        control: DrafterControl | None,
        adapters: AdapterControl | None = None,
    ) -> None:
        self._adapters = AdapterAdmin(gateway, model, adapters)
        self._gateway = gateway
        self._model = model
        self._control = control
        self._changing = asyncio.Lock()

    async def GetStatus(
        self,
        request: pb.GetStatusRequest,  # noqa: ARG002
        context: Context,  # noqa: ARG002
    ) -> pb.GetStatusResponse:
        """Return the state of the server."""
        gateway = self._gateway
        engine = put_status(gateway.status)
        if engine.drafter:
            engine.drafter = self._model.drafter or engine.drafter  # the name that users know
        return pb.GetStatusResponse(
            ready=gateway.is_ready,
            draining=gateway.is_draining,
            uptime_s=gateway.uptime_s,
            step_age_s=gateway.step_age_s,
            open_requests=gateway.num_open,
            max_open_requests=gateway.limits.max_open,
            finished_requests=gateway.metrics.num_finished,
            rejected_requests=gateway.metrics.num_rejected,
            engine=engine,
            replicas=[self._replica(replica) for replica in gateway.replicas],
        )

    def _replica(self, replica: Replica) -> pb.ReplicaStatus:
        return pb.ReplicaStatus(
            replica=replica.number,
            state=replica.state,
            step_age_s=replica.step_age_s,
            open_requests=self._gateway.num_open_on(replica.number),
            restarts=max(replica.num_attached - 1, 0),
            engine=put_status(replica.status),
            ranks=[
                pb.RankStatus(name=name, pid=beat.pid, state=beat.state, step_age_s=beat.step_age_s)
                for name, beat in replica.beats
            ],
        )

    async def Drain(
        self,
        request: pb.DrainRequest,  # noqa: ARG002
        context: Context,  # noqa: ARG002
    ) -> pb.DrainResponse:
        """Start draining: finish in-flight requests, reject new ones, then exit."""
        self._gateway.drain()
        return pb.DrainResponse(open_requests=self._gateway.num_open)

    async def RemoveDrafter(
        self,
        request: pb.RemoveDrafterRequest,  # noqa: ARG002
        context: Context,
    ) -> pb.RemoveDrafterResponse:
        """Stop drafting; stopping twice does no harm."""
        before = self._model.drafter
        await self._set(None, context)
        return pb.RemoveDrafterResponse(drafter=before)

    async def SwapDrafter(
        self, request: pb.SwapDrafterRequest, context: Context
    ) -> pb.SwapDrafterResponse:
        """Replace the drafter."""
        return pb.SwapDrafterResponse(drafter=await self._set(request.drafter, context))

    async def SetDrafters(
        self, request: pb.SetDraftersRequest, context: Context
    ) -> pb.SetDraftersResponse:
        """Change the number of drafters."""
        control = self._control
        if control is None:
            await reject(context, RequestRejected("this server cannot change its drafters"))
        try:
            count = await self._change(lambda: control.set_count(request.drafters))
        except PacelineError as error:
            await reject(context, error)
        return pb.SetDraftersResponse(drafters=count)

    async def AddAdapter(
        self, request: pb.AddAdapterRequest, context: Context
    ) -> pb.AddAdapterResponse:
        """Add or replace an adapter."""
        try:
            return await self._change(self._adapters.adding(request))
        except PacelineError as error:
            await reject(context, error)

    async def RemoveAdapter(
        self, request: pb.RemoveAdapterRequest, context: Context
    ) -> pb.RemoveAdapterResponse:
        """Remove an adapter."""
        try:
            return await self._change(self._adapters.removing(request))
        except PacelineError as error:
            await reject(context, error)

    async def ListAdapters(
        self,
        request: pb.ListAdaptersRequest,  # noqa: ARG002
        context: Context,  # noqa: ARG002
    ) -> pb.ListAdaptersResponse:
        """List the adapters."""
        return self._adapters.list()

    async def _set(self, drafter: str | None, context: Context) -> str:
        control = self._control
        if control is None:
            await reject(context, RequestRejected("this server cannot change its drafter"))

        def change() -> str:
            self._model.drafter = control.set(drafter)
            return self._model.drafter

        try:
            return await self._change(change)
        except PacelineError as error:
            await reject(context, error)

    async def _change(self, change: Callable[[], _T]) -> _T:
        """Run a change in a thread, one at a time; it completes even if its caller leaves."""

        async def run() -> _T:
            async with self._changing:
                return await asyncio.to_thread(change)

        changing = asyncio.create_task(run())
        changing.add_done_callback(_log_failure)
        return await asyncio.shield(changing)


def _log_failure(change: asyncio.Task[_T]) -> None:
    """Log a failed change, because its caller may be gone."""
    error = None if change.cancelled() else change.exception()
    if error is not None:
        _LOG.warning("a change of the server failed: %s", error)
