"""One local model that sees, draws and edits."""

__version__ = "0.1.0"
