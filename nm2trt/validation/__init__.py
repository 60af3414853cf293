"""5. Is it right, is it faster."""
