"""The decode engine: one token in as few operations as possible (docs/engine.md)."""
