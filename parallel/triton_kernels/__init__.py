"""GPU kernels in Triton; only `parallel.device_kernels.kernel_loader` imports this room."""
