"""Readers of files and documents from outside."""
