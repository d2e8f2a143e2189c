"""From weaver's command line to config.yaml. Imports only `base`."""
