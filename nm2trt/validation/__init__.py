"""Validation: task metrics, output differences and latency of models."""
