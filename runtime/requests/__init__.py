"""What every wire of the service shares: the served model, requests, and answers as events."""
