"""Sampling, verification, the decoding state machine and draft-length control."""
