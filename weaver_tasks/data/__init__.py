"""Everything about the data: its configuration, reading files, blocks of events, statistics and batches. Does not use torch."""
