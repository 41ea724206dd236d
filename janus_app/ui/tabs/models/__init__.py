"""The model bar and its panels."""
