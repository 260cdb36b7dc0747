"""What runs once a node: probes, echo, the keeper of a server."""
