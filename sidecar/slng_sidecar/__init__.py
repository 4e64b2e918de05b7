"""slng-sidecar: a localhost gateway to SLNG that holds the keys and the connections."""

__version__ = "0.1.0"
