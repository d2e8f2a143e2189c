"""From staged events to batches: windows, sampling, one stream of events, padded arrays."""
