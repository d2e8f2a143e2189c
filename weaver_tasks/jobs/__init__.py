"""Code shared by several stages: create a network or a trainer, train a chain of epochs, score events."""
