"""Limits on what a file may cost its reader: bounds, and a watch over calls of libraries."""
