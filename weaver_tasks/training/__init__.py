"""The training engine: models and batches come in as arguments, checkpoints and metrics go out.

This file imports nothing, so that the workflow can import `schedules`, and the launcher `journal`, without loading torch.
"""
