"""The picture world of the embedded models, and their training."""
