"""Process groups: the tensors of one role, exchanged between its ranks."""
