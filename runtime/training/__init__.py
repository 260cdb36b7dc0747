"""Fine-tuning jobs: configuration, data, workers, coordinator, checkpoints."""
