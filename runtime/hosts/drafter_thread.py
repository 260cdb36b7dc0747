"""A drafter in a thread of the leader's process, which drafts during the target's forwards."""

import logging
import threading

from parallel.messages import Hello
from runtime.clock import MonotonicClock
from runtime.device_streams import own_stream
from runtime.drafters.drafting import Drafter, serve_drafts
from runtime.hosts.torch_threads import use_threads
from runtime.links.link import Link
from runtime.links.memory_link import memory_link_pair
from runtime.timeline import Recorder

_LOG = logging.getLogger("paceline.drafter")
_HEARTBEAT_S = 2.0


def start_drafter_thread(
    drafter: Drafter, hello: Hello, *, device: str, num_threads: int, recorder: Recorder | None
) -> Link:
    """Start to draft in a thread; return the leader's end of its link.

    The thread ends when the link closes. If it fails, it closes the link, and requests continue
    without drafts.

    Args:
        drafter: what drafts; from now on, only the thread calls it.
        hello: its introduction.
        device: of its model: on a GPU, the thread has a stream of its own.
        num_threads: threads of its matrix products.
        recorder: records when it works.
    """
    ours, theirs = memory_link_pair(hello.name, "the leader")

    def serve() -> None:
        use_threads(num_threads)
        try:
            with own_stream(device):
                serve_drafts(
                    ours, drafter, MonotonicClock(), heartbeat_s=_HEARTBEAT_S, recorder=recorder
                )
        except Exception:  # the target serves although its drafter failed
            _LOG.exception("%s failed: requests continue without drafts", hello.name)
        finally:
            ours.close()

    threading.Thread(target=serve, name=hello.name, daemon=True).start()
    return theirs
