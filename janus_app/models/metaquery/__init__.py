"""MetaQuery (Pan et al. 2025): a frozen language model reads, learned queries hand over, a diffuser draws."""
