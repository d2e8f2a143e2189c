"""Blocks of events: a range of entries of a file, stored column by column, and how blocks are made from branches."""
