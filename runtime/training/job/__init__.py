"""A fine-tuning job's configuration and directory."""
