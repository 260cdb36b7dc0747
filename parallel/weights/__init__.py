"""Weight formats: how the numbers of a model are stored, and what they mean."""
