"""Fine-tuning jobs: the driver, its workers, and the verbs about a job."""
