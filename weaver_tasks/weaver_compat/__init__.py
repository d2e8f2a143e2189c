"""What stands in for weaver: its imports in users' network files, its training loops, its loaders and options, its checkpoints."""
