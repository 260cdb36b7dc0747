"""Gradients, adapters and optimizer steps, as functions of parameters and samples."""
