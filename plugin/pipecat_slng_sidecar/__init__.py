"""Pipecat speech services that talk to a local slng-sidecar.

The services are not here yet; until they are, the official ``pipecat-slng`` works through the sidecar.
"""

__version__ = "0.1.0"
