"""The decode engine: one token as few kernels as possible."""
