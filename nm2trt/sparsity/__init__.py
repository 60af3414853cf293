"""1. PyTorch: sparsity methods that attach to ordinary layers and leave N:M weights."""
