"""One local model that sees, draws and edits."""
