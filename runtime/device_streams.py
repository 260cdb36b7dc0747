"""Streams of a GPU: work of several threads that runs side by side."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def own_stream(device: str) -> Iterator[None]:
    """Run this thread's work on a stream of its own; on a CPU, which has none, as ever.

    On the stream that threads share, work waits for all that any of them began before. The stream
    starts behind what is there already, such as weights that are being loaded.
    """
    if not device.startswith("cuda"):
        yield
        return
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch's
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        yield
