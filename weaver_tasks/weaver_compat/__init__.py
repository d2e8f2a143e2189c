"""Replacements for weaver in users' network files: its importable modules, training loops, loaders, options and checkpoints."""
