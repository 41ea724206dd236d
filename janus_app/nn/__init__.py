"""Networks, sampling and diffusion loops: tensors in, tensors out."""
