"""Charts that verbs write as PNG files."""
