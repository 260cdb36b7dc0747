"""Which node each rank goes to, and the resources reserved there."""
