"""PyTorch to ONNX, with the plan in the metadata."""
