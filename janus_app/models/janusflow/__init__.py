"""JanusFlow: understanding as Janus does it, drawing by rectified flow (Ma et al. 2024, arXiv 2411.07975)."""
