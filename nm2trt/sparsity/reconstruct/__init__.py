"""Reconstruction of torch modules: masks and values solved layer by layer from calibration input."""
