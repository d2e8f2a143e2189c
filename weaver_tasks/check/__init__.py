"""The command `check`: a look at a run before it starts."""
