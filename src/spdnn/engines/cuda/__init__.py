"""Own CUDA kernels for any sparse network."""
