"""Samples to run: npz, recipes, Polygraphy's JSON, and how they are fed."""
