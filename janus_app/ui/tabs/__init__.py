"""One package per tab."""
