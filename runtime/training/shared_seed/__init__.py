"""Shared-seed training: sequencer, workers, log, and their service."""
