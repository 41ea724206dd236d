"""Several requests as one piece of work: grids, comparisons, exports."""
