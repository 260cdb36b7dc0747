"""Checks of values from outside: requests, records and JSON files; imports no heavy library."""
