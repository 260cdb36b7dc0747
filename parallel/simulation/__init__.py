"""Simulated decoding: the state machines and controllers that decode, in virtual time."""
