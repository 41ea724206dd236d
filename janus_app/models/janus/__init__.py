"""Janus (Wu et al. 2024) and Janus-Pro (Chen et al. 2025): one decoder reads SigLIP features and writes VQ tokens."""
