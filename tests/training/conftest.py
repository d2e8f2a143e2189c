"""Trainings in memory, see memory_run."""

from memory_run import chain, events, same_bits_fixture  # noqa: F401
