"""The field's jet taggers, and how a user's network configuration is loaded."""
