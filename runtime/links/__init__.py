"""Token links: typed messages between two processes."""
