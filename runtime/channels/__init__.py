"""gRPC channels: addresses, bearer tokens, TLS files, and the one place that opens channels."""
