"""Scaling experiments: sweeps that are planned by simulation, measured, and reported."""
