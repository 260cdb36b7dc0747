"""Where tests run Triton kernels: on the GPU if there is one; else a CPU interprets them."""

import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
