"""One module for each model family, found by the registry."""
