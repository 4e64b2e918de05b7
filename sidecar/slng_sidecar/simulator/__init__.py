"""A stand-in for SLNG on real sockets: route profiles, scripted faults, real speech or an exact signal.

People run it as ``slng-sidecar simulate`` (``docs/reference/simulator.md``). In tests:

    async with running_simulator(SimulatorOptions.fast()) as simulator:
        simulator.inject(do="drop", kind="tts", when="audio", after_ms=500)
        ...  # talk to simulator.url
        await simulator.log.until(lambda log: log.dials == 2)
"""

from slng_sidecar.engines.selection import SIGNAL_MODELS, Speech, recognize, speak
from slng_sidecar.simulator.app import create_simulator, running_simulator
from slng_sidecar.simulator.faults import BadFault, Fault, parse_script
from slng_sidecar.simulator.options import BAD_PROVIDER_KEY, REFUSED_KEY, SimulatorOptions
from slng_sidecar.simulator.profiles import BadProfile, RouteProfile, check_profile, parse_profile
from slng_sidecar.simulator.records import Log, Record
from slng_sidecar.simulator.state import Simulator

__all__ = [
    "BAD_PROVIDER_KEY",
    "REFUSED_KEY",
    "SIGNAL_MODELS",
    "BadFault",
    "BadProfile",
    "Fault",
    "Log",
    "Record",
    "RouteProfile",
    "Simulator",
    "SimulatorOptions",
    "Speech",
    "check_profile",
    "create_simulator",
    "parse_profile",
    "parse_script",
    "recognize",
    "running_simulator",
    "speak",
]
