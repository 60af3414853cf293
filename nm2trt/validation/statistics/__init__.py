"""Paired tests and bootstrap intervals."""
