"""Simulated training on clusters that are not there."""
