"""Shared-seed training on machines: the log, who closes rounds, who computes scalars."""
