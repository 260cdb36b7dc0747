"""Package paceline."""
