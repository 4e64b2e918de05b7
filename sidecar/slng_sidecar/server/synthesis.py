"""HTTP speech on its way upstream: over SLNG's HTTP bridge or its WebSocket one, whichever is set and there."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from typing import Literal

from slng_sidecar.protocol.errors import GatewayError
from slng_sidecar.protocol.reports import TurnReport
from slng_sidecar.protocol.route import Target
from slng_sidecar.server.gateway import Gateway, LiveSession, log_of
from slng_sidecar.sessions.http_speech import HttpSpeech, SpeechClient, pour
from slng_sidecar.telemetry.metrics import SessionMetrics
from slng_sidecar.upstream.bridge import BridgeMissing

log = logging.getLogger(__name__)

Way = Literal["bridge", "websocket"]

_REMEMBERED_SECONDS = 3600.0
# What the HTTP bridge takes no other value of, or none at all.
_FOR_BOTH_WAYS = {"sample_rate", "encoding"}


class KnownGateways:
    """Which gateways are known to have no HTTP bridge, each for an hour."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._missing_until: dict[str, float] = {}

    def has_bridge(self, base_url: str) -> bool:
        """Tell whether a gateway may have an HTTP bridge."""
        return self._clock() >= self._missing_until.get(base_url, 0)

    def lacks_bridge(self, base_url: str) -> None:
        """Remember that a gateway has none."""
        log.info("%s has no HTTP bridge; its WebSocket one is taken for an hour", base_url)
        self._missing_until[base_url] = self._clock() + _REMEMBERED_SECONDS


class Synthesis:
    """The one way into speech for every HTTP route."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._known = KnownGateways()

    @property
    def send_timeout(self) -> float:
        """The seconds that a client may take to accept what is sent to it."""
        return self._gateway.settings.sidecar_send_timeout

    def start(self, speech: HttpSpeech, target: Target, peer: str) -> None:
        """Have a text said; the utterance hears how that goes.

        Args:
            peer: the client's address.

        Raises:
            GatewayError: ``session_limit``; ``config_error``, where the way that is set cannot do what is asked.
        """
        gateway = self._gateway
        try:
            way = self._way(speech, target)
            live = gateway.take_place(target, peer)
        except GatewayError as error:
            gateway.refused(error, peer)
            raise
        speech.log, live.fail = log_of(live), speech.finish
        task = gateway.tasks.start(self._say(speech, live, way), f"speech {live.number}")
        task.add_done_callback(lambda _: gateway.free_place(live))

    def sounds(self, speech: HttpSpeech) -> None:
        """Note that the reply to a request begins now."""
        self._gateway.metrics.own_seconds.observe(speech.timing.overhead())

    def _way(self, speech: HttpSpeech, target: Target) -> Way:
        setting = self._gateway.settings.slng_http_tts
        only_websocket = sorted(speech.config.keys() - _FOR_BOTH_WAYS)
        if setting == "bridge" and only_websocket:
            raise GatewayError(
                "config_error",
                f"config.{only_websocket[0]} needs the WebSocket way, and this sidecar is set to SLNG_HTTP_TTS=bridge, "
                "which takes text and voice only. Leave it out, or set SLNG_HTTP_TTS=auto.",
            )
        if setting == "auto":
            return "websocket" if only_websocket or not self._known.has_bridge(target.base_url) else "bridge"
        return setting

    async def _say(self, speech: HttpSpeech, live: LiveSession, way: Way) -> None:
        if way == "bridge":
            missing = await self._say_over_bridge(speech, live)
            if missing is None:
                return
            if missing.status == 404:
                # That may be the model's; it is the gateway's only where the model is there the other way.
                speech.said = lambda: self._known.lacks_bridge(live.target.base_url)
            else:
                self._known.lacks_bridge(live.target.base_url)
        speech.way = "websocket"
        await self._gateway.run_session(SpeechClient(speech), live, moments=speech.timing)

    async def _say_over_bridge(self, speech: HttpSpeech, live: LiveSession) -> BridgeMissing | None:
        """Say a text over the HTTP bridge; give the answer that there is none, where the other way may be tried."""
        gateway, target = self._gateway, live.target
        observer = SessionMetrics(gateway.metrics, target.kind, target.model)
        outcome, counts = "failed", Counter({"http_bridge": 1})
        told = log_of(live)
        told.info("%s at %s by HTTP", target.model, target.base_url, fields={"event": "session_began"})
        observer.dialled()
        observer.began()
        began = time.monotonic()
        try:
            await pour(
                gateway.bridge.speak(
                    target,
                    speech.text,
                    speech.voice,
                    speech.sample_rate,
                    speech.sounds_at,
                    speech.timing,
                ),
                speech,
            )
            speech.finish()
            outcome = "client_left" if speech.left.is_set() else "closed"
        except BridgeMissing as missing:
            if gateway.settings.slng_http_tts == "auto":
                outcome, counts = "missing", Counter({"http_bridge_missing": 1})
                return missing
            speech.finish(missing.error)
        except GatewayError as error:
            speech.finish(error)
        except Exception:
            told.exception("failed by a fault of the sidecar")
            speech.finish(GatewayError.own_fault())
        finally:
            if outcome != "missing":
                seconds = speech.size / (2 * speech.sample_rate)
                said = "completed" if outcome == "closed" else "abandoned" if outcome == "client_left" else "failed"
                turn = TurnReport("context", said, began, speech.timing.first_sound, len(speech.text), seconds)
                observer.turn(turn, time.monotonic())
                passed = round(time.monotonic() - live.since, 1)
                fields = {"event": "session_ended", "outcome": outcome, "seconds": passed}
                told.info("%s after %.1f s", outcome, passed, fields=fields)
            observer.progress(counts, 0.0)
            observer.ended("closed" if outcome == "missing" else outcome, 0)
        return None
