"""`paceline demo`: a server with what a first look needs, and nothing to configure."""

from cluster.options.demo_options import DemoOptions
from cluster.options.serve_options import ServeOptions


def server_options(options: DemoOptions) -> ServeOptions:
    """Return the options of the demo's server; gRPC listens on a free port too."""
    return ServeOptions(
        models=options.models, mode=options.mode, listen="127.0.0.1:0", http=options.http
    )
