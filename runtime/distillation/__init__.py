"""Training a drafter: corpus, teacher, trainer, and learning from traffic."""
