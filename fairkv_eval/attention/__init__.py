"""The seam to transformers, and the backends that attend: SDPA, flash kernels; rotations."""
