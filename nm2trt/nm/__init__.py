"""N:M sparsity: the pattern, the mask, the reduction axis. Every stage uses it."""
