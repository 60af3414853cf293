"""Recipes: one YAML file that says how a model goes from weights to a probed deployment."""
