"""Mathematics: values and tensors in, values and tensors out."""
