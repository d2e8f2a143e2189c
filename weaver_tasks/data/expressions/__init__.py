"""The expressions of a data configuration: their allowed syntax, the variables they need, and their evaluation."""
