"""Requests to a Triton server: tensors, limits on answers, and the time that the server says they took."""
