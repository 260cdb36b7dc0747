"""The decoder-only transformer and its tensor-parallel layers."""
