"""Provenance: the records of tasks read back, lineage of files, reruns, the RO-Crate of a run."""
