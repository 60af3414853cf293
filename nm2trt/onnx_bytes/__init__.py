"""ONNX files as bytes, read field by field, without the package `onnx`."""
