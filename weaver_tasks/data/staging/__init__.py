"""Input files brought near: written as columns or copied, checked, and listed in a manifest."""
