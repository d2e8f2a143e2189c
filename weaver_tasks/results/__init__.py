"""From scores to results: metrics, tables (ROOT, Parquet), plots, ONNX. Imports only `base`; knows no stage."""
