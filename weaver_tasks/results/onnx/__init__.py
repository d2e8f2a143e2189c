"""A trained network as an ONNX model: exported, run, compared with PyTorch."""
