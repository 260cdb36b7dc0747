"""Kernels run on a GPU if there is one, and are interpreted if not."""

from importlib.util import find_spec

collect_ignore_glob = (
    [] if find_spec("triton") else ["test_*.py"]
)  # there are wheels for Linux only
