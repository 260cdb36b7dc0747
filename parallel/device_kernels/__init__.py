"""What a step on a device calls: the interface of its kernels, and a version in plain torch."""
