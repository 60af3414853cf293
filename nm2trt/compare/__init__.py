"""Differences between two sets of outputs, and the tolerance of each dtype."""
