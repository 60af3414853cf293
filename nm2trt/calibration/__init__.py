"""Calibration input: recipes in YAML, and the fixed, hashed sample sets that they choose; no torch."""
