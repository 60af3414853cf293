"""Engines of one network with and without sparsity, compared."""
