"""A Variant becomes a loaded model that answers requests, one at a time."""
