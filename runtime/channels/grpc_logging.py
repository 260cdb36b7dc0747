"""Silence what gRPC's C core logs by itself."""

import os


def quiet_grpc() -> None:
    """Keep gRPC's C core from logging lost peers and forks, which Paceline reports as errors.

    The core reads these variables when it first starts; values that the user has set are kept.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
