"""The solver of one layer: mask and values from second moments, in numpy or torch."""
