"""The expressions of a data configuration: what they may say, what they need, and how they are computed."""
