"""The process of a rank: its settings, and what it builds and runs."""
