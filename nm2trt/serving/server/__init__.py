"""A tritonserver of one's own."""
