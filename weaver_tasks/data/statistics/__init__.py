"""What is computed once from the training events: standardization of the inputs, weights of the classes."""
