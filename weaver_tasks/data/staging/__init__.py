"""Staging of input files: each is checked, written as columns or copied to fast storage, and listed in a manifest."""
