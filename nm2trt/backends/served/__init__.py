"""Requests to a Triton server: their tensors, and the time that the server says they took."""
