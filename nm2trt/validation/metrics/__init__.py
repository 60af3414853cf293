"""Scores by task: classification, detection, embeddings, text."""
