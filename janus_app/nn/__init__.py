"""Networks and samplers: torch in, tensors out."""
