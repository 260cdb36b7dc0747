"""Where things run: placement, supervision and the command line."""
