"""The commands that simulate training on clusters in virtual time."""
