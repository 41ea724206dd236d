"""The systems themselves. Importing this package costs nothing: torch is imported by the families alone."""
