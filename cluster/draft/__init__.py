"""Making, training and comparing drafters."""
