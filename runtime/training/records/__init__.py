"""Records of data files: their fields, and preferences among answers."""
