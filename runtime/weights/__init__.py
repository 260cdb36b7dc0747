"""Weight files: their tensors by name, the layout of integer codes, and the formats held."""
