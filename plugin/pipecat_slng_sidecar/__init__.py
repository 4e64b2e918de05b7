"""Pipecat speech services that use a local slng-sidecar."""

from pipecat_slng_sidecar.http_tts import SlngHttpTTSService
from pipecat_slng_sidecar.options import WorldPart
from pipecat_slng_sidecar.stt import SlngSTTService, SlngSTTSettings
from pipecat_slng_sidecar.tts import SlngTTSService
from pipecat_slng_sidecar.tts_base import SlngTTSSettings

__version__ = "0.1.0"
__all__ = [
    "SlngHttpTTSService",
    "SlngSTTService",
    "SlngSTTSettings",
    "SlngTTSService",
    "SlngTTSSettings",
    "WorldPart",
]
