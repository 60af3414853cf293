"""One-shot N:M by magnitude on stored weights, and the dense twin of a sparse model."""
