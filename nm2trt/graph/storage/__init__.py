"""The ONNX file on disk: reading, writing whole or not at all, external data, stage metadata."""
