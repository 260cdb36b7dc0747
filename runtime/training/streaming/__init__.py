"""Training data larger than memory: files in windows of records, and samples made when needed."""
