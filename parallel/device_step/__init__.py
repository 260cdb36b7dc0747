"""A step of a decoder as a function of device buffers of fixed shapes."""
