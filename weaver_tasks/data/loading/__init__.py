"""Makes batches from staged events: reads windows of entries, samples and shuffles events, and pads the inputs."""
