"""Checks of values from outside: requests and records; imports no heavy library."""
