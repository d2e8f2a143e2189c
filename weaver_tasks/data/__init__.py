"""What is read from files and what becomes of it: configuration, blocks of events, statistics, batches. No torch here."""
