"""Builds sessions out of settings and runs them, with their log, metrics and traces."""

from __future__ import annotations

import time

from slng_sidecar import __version__
from slng_sidecar.protocol.reports import UpstreamObserver
from slng_sidecar.protocol.stt.dialects import ExtendedStt, PlainStt
from slng_sidecar.protocol.stt.options import SttOptions
from slng_sidecar.protocol.stt.session import SttMachine
from slng_sidecar.protocol.tts.dialects import ExtendedTts, PlainTts
from slng_sidecar.protocol.tts.options import TtsOptions
from slng_sidecar.protocol.tts.session import TtsMachine
from slng_sidecar.server.gateway import Gateway, LiveSession
from slng_sidecar.server.observers import SessionErrors
from slng_sidecar.sessions.delivery import decodable_encodings
from slng_sidecar.sessions.runner import Client, SessionRunner
from slng_sidecar.telemetry.metrics import SessionMetrics

# A file is sent faster than upstream transcribes it. A final then says nothing about when its audio was sent, and the
# end may take long; the reader of the transcripts bounds the wait.
_FILE_SECONDS = 86_400.0
# How a session ended, by the code that its client was closed with.
_OUTCOMES = {1000: "closed", 1012: "drained"}


class SessionFactory:
    """Runs sessions on the places that a gateway gave them."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._services = gateway.services

    async def run(
        self,
        client: Client,
        live: LiveSession,
        *,
        extended: bool = False,
        file: bool = False,
        observer: UpstreamObserver | None = None,
    ) -> None:
        """Join a client to upstream until either has ended for good. Never raises.

        Args:
            extended: whether the client uses the extended dialect.
            file: whether its audio comes faster than it was spoken.
            observer: follows the session besides metrics, traces and the status.
        """
        services, target = self._services, live.target
        log = live.log()
        metrics = SessionMetrics(services.metrics, target.kind, target.model)
        trace = services.tracing.session(target, live.number) if services.tracing is not None else None
        errors = SessionErrors(services.errors, live.number, target)
        observers = [each for each in (metrics, errors, trace, observer) if each is not None]
        machine = self._machine(live, extended=extended, file=file)
        runner = SessionRunner(client, machine, target, services.dialler, log, observers, services.standby, live.number)
        self._gateway.attach(live, runner)
        log.info("%s at %s", target.model, target.base_url, fields={"event": "session_began"})
        outcome = "failed"
        metrics.began()
        try:
            closing = await runner.run()
            outcome = "client_left" if closing is None else _OUTCOMES.get(closing.code, "failed")
        except Exception:
            log.exception("failed by a fault of the sidecar")
            await client.close(1011, "internal_error: the sidecar failed; its log says how")
        finally:
            metrics.ended(outcome, runner.queue_bytes)
            if trace is not None:
                trace.ended(outcome, machine.audio_seconds)
            seconds = round(time.monotonic() - live.since, 1)
            counts = {reason: amount for reason, amount in sorted(runner.counts.items()) if amount}
            log.info(
                "%s after %.1f s, dials: %d%s",
                outcome,
                seconds,
                runner.dials,
                "".join(f", {reason} {amount}" for reason, amount in counts.items()),
                fields={
                    "event": "session_ended",
                    "outcome": outcome,
                    "seconds": seconds,
                    "dials": runner.dials,
                    "counts": counts,
                },
            )

    def _machine(self, live: LiveSession, *, extended: bool, file: bool) -> SttMachine | TtsMachine:
        if live.target.kind == "stt":
            return self._stt(live, extended=extended, file=file)
        return self._tts(live, extended=extended)

    def _stt(self, live: LiveSession, *, extended: bool, file: bool) -> SttMachine:
        settings = self._services.settings
        options = SttOptions(
            model=live.target.model,
            own_provider_key=live.target.own_provider_key,
            confidence_threshold=settings.sidecar_confidence_threshold,
            confidence_scope=settings.sidecar_confidence_scope,
            replay_seconds=settings.sidecar_replay_seconds,
            final_lag=_FILE_SECONDS if file else settings.sidecar_final_lag,
            finalize_timeout=settings.sidecar_finalize_timeout,
            reconnect_seconds=settings.sidecar_reconnect_seconds,
            rotate_seconds=settings.sidecar_session_rotate,
            init_timeout=settings.sidecar_init_timeout,
            close_timeout=_FILE_SECONDS if file else settings.sidecar_close_timeout,
        )
        return SttMachine(options, ExtendedStt(__version__, str(live.number)) if extended else PlainStt())

    def _tts(self, live: LiveSession, *, extended: bool) -> TtsMachine:
        settings = self._services.settings
        options = TtsOptions(
            model=live.target.model,
            own_provider_key=live.target.own_provider_key,
            flush=settings.slng_flush,
            max_text=settings.sidecar_max_text,
            context_idle=settings.sidecar_context_idle,
            init_timeout=settings.sidecar_init_timeout,
            first_audio_timeout=settings.sidecar_first_audio_timeout,
            terminal_timeout=settings.sidecar_terminal_timeout,
            close_timeout=settings.sidecar_close_timeout,
            reconnect_seconds=settings.sidecar_reconnect_seconds,
            rotate_seconds=settings.sidecar_session_rotate,
            standby=self._services.standby.per_shape > 0,
        )
        if extended:
            return TtsMachine(options, ExtendedTts(__version__, str(live.number), decodable_encodings()))
        return TtsMachine(options, PlainTts(settings.sidecar_plain_terminal))
