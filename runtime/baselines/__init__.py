"""Other engines to compare with: transformers and llama.cpp."""
