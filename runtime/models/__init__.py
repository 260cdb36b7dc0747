"""Reading models: from a directory or a GGUF file to its configuration and tensors."""
