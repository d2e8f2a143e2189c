"""The plots of a run, in the style of the field."""
