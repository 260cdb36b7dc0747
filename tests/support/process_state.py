"""What tests share in their process, such as its log levels: each begins and leaves it as new.

Verbs run in the process of the tests, and set what is their own in a process of their own.
"""

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

NUM_THREADS = 1
"""Of torch: several test processes share two cores, where more threads wait for one another."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PYTEST = "PYTEST_CURRENT_TEST"
"""Changes while a test runs."""


@contextmanager
def own_process_state() -> Iterator[None]:
    """Start with new logs and one thread of torch, and undo what changes in the process.

    That is logs and threads, the environment, and what SIGINT, SIGTERM and SIGHUP do.
    """
    _reset()
    environment = dict(os.environ)
    handlers = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        yield
    finally:
        _reset()
        _restore_environment(environment)
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():
                if handler is not None and signal.getsignal(number) is not handler:
                    signal.signal(number, handler)


def ray_is_running() -> bool:
    """Return whether this process is connected to a Ray."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


def _reset() -> None:
    for logger in _project_loggers():
        logger.handlers, logger.propagate = [], True
        logger.setLevel(logging.NOTSET)
    if torch.get_num_threads() != NUM_THREADS:
        torch.set_num_threads(NUM_THREADS)


def _project_loggers() -> list[logging.Logger]:
    """Return the logger `paceline` and those below it that exist already."""
    below = [name for name in logging.root.manager.loggerDict if name.startswith("paceline.")]
    return [logging.getLogger(name) for name in ("paceline", *below)]


def _restore_environment(before: dict[str, str]) -> None:
    for name in os.environ.keys() - before.keys() - {_PYTEST}:
        del os.environ[name]
    for name, value in before.items():
        if name != _PYTEST and os.environ.get(name) != value:
            os.environ[name] = value
