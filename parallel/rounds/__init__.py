"""Rounds of decoding: the state machine of a sequence, the loop, its costs and draft lengths."""
