"""HTTP speech on its way upstream: over SLNG's HTTP bridge or its WebSocket bridge."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from typing import Literal

from slng_sidecar.protocol.errors import ErrorCode, GatewayError
from slng_sidecar.protocol.reports import TurnReport
from slng_sidecar.protocol.route import Target
from slng_sidecar.server.gateway import Gateway, LiveSession
from slng_sidecar.server.session_factory import SessionFactory
from slng_sidecar.sessions.http_speech import HttpSpeech, SpeechClient, pour
from slng_sidecar.telemetry.metrics import SessionMetrics
from slng_sidecar.upstream.bridge import BridgeMissing

log = logging.getLogger(__name__)

Bridge = Literal["bridge", "websocket"]

_REMEMBERED_SECONDS = 3600.0
# Config fields that the HTTP bridge does not take, but whose value is the same or can be made here.
_POSSIBLE_BY_HTTP = {"sample_rate", "encoding"}


class KnownGateways:
    """Remembers for an hour which gateways have no HTTP bridge."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._missing_until: dict[str, float] = {}

    def has_bridge(self, base_url: str) -> bool:
        """Return whether a gateway may have an HTTP bridge."""
        return self._clock() >= self._missing_until.get(base_url, 0)

    def lacks_bridge(self, base_url: str) -> None:
        """Remember that a gateway has no HTTP bridge."""
        log.info("%s has no HTTP bridge; its WebSocket bridge is used for an hour", base_url)
        self._missing_until[base_url] = self._clock() + _REMEMBERED_SECONDS


class Synthesis:
    """Synthesizes texts for every HTTP route."""

    def __init__(self, gateway: Gateway, sessions: SessionFactory) -> None:
        self._gateway = gateway
        self._services = gateway.services
        self._sessions = sessions
        self._known = KnownGateways()

    @property
    def send_timeout(self) -> float:
        """Seconds that a client may take to accept what is sent to it."""
        return self._services.settings.sidecar_send_timeout

    def start(self, speech: HttpSpeech, target: Target, peer: str) -> None:
        """Start to synthesize a text. ``speech`` gets the audio and the outcome.

        Args:
            peer: the client's address.

        Raises:
            GatewayError: ``session_limit``; ``config_error``, if the configured bridge cannot do what is asked.
        """
        gateway = self._gateway
        try:
            bridge = self._choose(speech, target)
            live = gateway.take_place(target, peer)
        except GatewayError as error:
            gateway.refused(error, peer)
            raise
        speech.log, live.fail = live.log(), speech.finish
        task = self._services.tasks.start(self._synthesize(speech, live, bridge), f"speech {live.number}")
        task.add_done_callback(lambda _: gateway.free_place(live))

    def reply_starts(self, speech: HttpSpeech) -> None:
        """Measure the sidecar's own time: the reply to a request starts now."""
        self._services.metrics.own_seconds.observe(speech.timing.overhead())

    def _choose(self, speech: HttpSpeech, target: Target) -> Bridge:
        setting = self._services.settings.slng_http_tts
        only_websocket = sorted(speech.config.keys() - _POSSIBLE_BY_HTTP)
        if setting == "bridge" and only_websocket:
            raise GatewayError(
                ErrorCode.CONFIG_ERROR,
                f"config.{only_websocket[0]} needs the WebSocket bridge, but this sidecar is set to "
                "SLNG_HTTP_TTS=bridge, which takes text and voice only. Leave it out, or set SLNG_HTTP_TTS=auto.",
            )
        if setting == "auto":
            return "websocket" if only_websocket or not self._known.has_bridge(target.base_url) else "bridge"
        return setting

    async def _synthesize(self, speech: HttpSpeech, live: LiveSession, bridge: Bridge) -> None:
        if bridge == "bridge":
            missing = await self._synthesize_by_http(speech, live)
            if missing is None:
                return
            if missing.status == 404:
                # The model may be missing. The gateway has no HTTP bridge only if the other bridge has the model.
                speech.on_complete = lambda: self._known.lacks_bridge(live.target.base_url)
            else:
                self._known.lacks_bridge(live.target.base_url)
        speech.bridge = "websocket"
        await self._sessions.run(SpeechClient(speech), live, observer=speech.timing)

    async def _synthesize_by_http(self, speech: HttpSpeech, live: LiveSession) -> BridgeMissing | None:
        """Synthesize over the HTTP bridge.

        Returns:
            The answer that there is no such bridge, if the WebSocket bridge may be used instead; otherwise None.
        """
        services, target = self._services, live.target
        metrics = SessionMetrics(services.metrics, target.kind, target.model)
        outcome, counts = "failed", Counter({"http_bridge": 1})
        session_log = live.log()
        session_log.info("%s at %s by HTTP", target.model, target.base_url, fields={"event": "session_began"})
        metrics.dialled()
        metrics.began()
        began = time.monotonic()
        try:
            audio = services.bridge.speak(
                target, speech.text, speech.voice, speech.sample_rate, speech.set_rate, speech.timing
            )
            await pour(audio, speech)
            outcome = "client_left" if speech.abandoned.is_set() else "closed"
            speech.finish()
        except BridgeMissing as missing:
            if services.settings.slng_http_tts == "auto":
                outcome, counts = "missing", Counter({"http_bridge_missing": 1})
                return missing
            speech.finish(missing.error)
        except GatewayError as error:
            speech.finish(error)
        except Exception:
            session_log.exception("failed by a fault of the sidecar")
            speech.finish(GatewayError.own_fault())
        finally:
            if outcome != "missing":
                seconds = speech.size / (2 * speech.sample_rate)
                ended = {"closed": "completed", "client_left": "abandoned"}.get(outcome, "failed")
                first = speech.timing.first_audio
                report = TurnReport("context", ended, began, first, len(speech.text), seconds)
                metrics.turn(report, time.monotonic())
                passed = round(time.monotonic() - live.since, 1)
                fields = {"event": "session_ended", "outcome": outcome, "seconds": passed}
                session_log.info("%s after %.1f s", outcome, passed, fields=fields)
            metrics.progress(counts, 0.0)
            metrics.ended("closed" if outcome == "missing" else outcome, 0)
        return None
