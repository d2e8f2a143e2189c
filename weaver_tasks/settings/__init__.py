"""config.yaml as typed models: each key says its type, default, meaning, limits, and which stages depend on it. Imports only `base`."""
