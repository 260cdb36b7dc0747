"""Shared-seed training: directions from counters, one byte a scalar, the same step everywhere."""
