"""Products with stored weights, and the native kernels for CPUs."""
