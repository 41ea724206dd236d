"""Models whose language model reads and writes a picture as a few vectors, which a diffusion model paints."""
