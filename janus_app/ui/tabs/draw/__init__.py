"""The draw tab."""
