"""What N:M sparsity means: the pattern, the mask, the reduction axis. Every stage uses it."""
