"""Measurements of the app's models, each a command that prints a table."""
