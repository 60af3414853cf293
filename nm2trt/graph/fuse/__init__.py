"""BatchNorm folding and merging of parallel convolution branches."""
