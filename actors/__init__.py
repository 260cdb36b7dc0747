"""Ray shells around runtime."""
