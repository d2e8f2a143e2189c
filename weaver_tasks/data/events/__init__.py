"""Events of a range of entries as columns: the block that all work on data is done in."""
