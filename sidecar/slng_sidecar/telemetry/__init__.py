"""The log, metrics and traces."""
