"""Benchmarks of the app and its models; each is a command that prints a table."""
