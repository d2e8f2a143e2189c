"""Predictions: scored, written as tables, merged, read back."""
