"""Collectives between the ranks of one role."""
