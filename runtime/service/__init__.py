"""The gRPC service: generation for clients anywhere."""
