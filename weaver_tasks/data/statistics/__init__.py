"""Quantities computed once from the training events: the standardization of the inputs and the weights of the classes."""
