"""The picture world the embedded weights know, and the one command that trains them."""
