"""What all replicas of a shared-seed run compute alike: directions, bytes, steps."""
