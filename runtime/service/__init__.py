"""The gRPC service: servicers, identity, tracing and logs."""
