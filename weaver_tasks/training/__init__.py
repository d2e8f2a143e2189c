"""The training engine: models and batches come in as arguments, checkpoints and metrics go out.

Nothing is imported here: the workflow reads `schedules`, and the launcher `journal`, without torch.
"""
