"""The version of the app, as pictures record it."""

__version__ = "0.1.0"
