"""2. ONNX: verify, fuse and prune."""
