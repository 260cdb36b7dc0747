"""Drafters that are pure functions of the token history."""
