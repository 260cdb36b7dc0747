"""`paceline bench constraints`: what constraints cost, and what they save."""
