"""Plans of deployments, the actors they start, and their supervision."""
