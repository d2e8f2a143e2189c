"""The ground that every other layer stands on. Standard library, PyYAML and tqdm only."""
