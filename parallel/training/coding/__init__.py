"""Gradient coding: exact gradients although some workers are late, lost or silent."""
