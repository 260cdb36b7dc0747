"""Decoding modes: one module for each, behind one protocol, registered in one table."""
