"""The commands that build, train and compare drafters."""
