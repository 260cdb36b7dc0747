"""What a fine-tuning job needs before it starts: memory by part, and bytes that it sends."""
