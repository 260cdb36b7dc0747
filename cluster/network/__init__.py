"""Connections: to a Ray cluster, and to a server."""
