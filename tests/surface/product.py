"""Import everything that the surface is collected from.

This is the only module of the surface tests that names modules of the product. When a module moves, change the import
here and nothing else; the recorded surface must stay as it is.
"""

from __future__ import annotations

from typing import Any

import pipecat_slng_sidecar as plugin
import slng_sidecar as sidecar
from slng_sidecar.cli.main import app as command_line
from slng_sidecar.config import FIXED as NEEDS_RESTART
from slng_sidecar.config import Settings, load_settings
from slng_sidecar.engines.selection import recognize as recognise
from slng_sidecar.engines.signal import Decoder, decode, encode
from slng_sidecar.engines.signal import SignalWord as Word
from slng_sidecar.keys import SECRETS
from slng_sidecar.protocol.errors import STATUS_OF_CODE, GatewayError
from slng_sidecar.server.app import create_app
from slng_sidecar.server.gateway import Gateway
from slng_sidecar.server.services import Services
from slng_sidecar.simulator import (
    BadFault,
    Log,
    Record,
    Simulator,
    SimulatorOptions,
    create_simulator,
    running_simulator,
    speak,
)
from slng_sidecar.simulator.faults import KINDS, MOMENTS, actions, parse_fault
from slng_sidecar.simulator.profiles import BadProfile as BadManners
from slng_sidecar.simulator.profiles import RouteProfile as Manners
from slng_sidecar.simulator.profiles import check_profile as check_manners
from slng_sidecar.simulator.profiles import route_profile as route_manners
from slng_sidecar.simulator.proxy import ENDINGS
from slng_sidecar.telemetry.metrics import Metrics

__all__ = [
    "ENDINGS",
    "KINDS",
    "MOMENTS",
    "NEEDS_RESTART",
    "SECRETS",
    "STATUS_OF_CODE",
    "BadFault",
    "BadManners",
    "Decoder",
    "GatewayError",
    "Log",
    "Manners",
    "Metrics",
    "Record",
    "Settings",
    "Simulator",
    "SimulatorOptions",
    "Word",
    "actions",
    "check_manners",
    "command_line",
    "create_simulator",
    "decode",
    "encode",
    "load_settings",
    "new_app",
    "parse_fault",
    "plugin",
    "recognise",
    "route_manners",
    "running_simulator",
    "shared_profile_fields",
    "sidecar",
    "speak",
]


def shared_profile_fields(options: SimulatorOptions) -> dict[str, Any]:
    """Return the profile fields that a simulator with these options has on every route."""
    return dict(options.profile)


def new_app() -> Any:
    """Return the application of a sidecar with default settings."""
    return create_app(Gateway(Services(*load_settings(slng_api_key="k"))))
