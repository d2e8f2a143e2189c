"""Standard jet taggers of High Energy Physics, and functions that load a user's network configuration."""
