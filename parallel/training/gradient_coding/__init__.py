"""Codes and schemes that keep gradients exact under stragglers."""
