"""FCPTS: post-training sparsity from calibration samples, by learned thresholds and distillation."""
