"""What sessions and requests share for the life of the process: settings, keys, metrics, and the ways upstream."""

from __future__ import annotations

from functools import partial
from types import TracebackType
from typing import Self

from slng_sidecar.config import Settings
from slng_sidecar.keys import Secrets
from slng_sidecar.net.tasks import SeparateTasks
from slng_sidecar.server.observers import RecentErrors, StandbyObserver
from slng_sidecar.server.targets import default_targets
from slng_sidecar.telemetry.metrics import Metrics
from slng_sidecar.telemetry.tracing import Tracing
from slng_sidecar.upstream.bridge import HttpBridge
from slng_sidecar.upstream.connection import Dialler, Limits
from slng_sidecar.upstream.standby import Standby


class Services:
    """An asynchronous context that must be entered before sessions run.

    Mutable: ``settings``, which a reload replaces.

    Attributes:
        secrets: the keys and the token.
        metrics: all metrics.
        tracing: sends spans; None if no collector is configured.
        errors: the last errors of upstream.
        tasks: owns what outlives the request that started it, which is as long as closing upstream takes.
        dialler: opens upstream connections.
        standby: holds standby connections.
        bridge: sends HTTP requests upstream.
    """

    def __init__(self, settings: Settings, secrets: Secrets) -> None:
        self.settings = settings
        self.secrets = secrets
        self.metrics = Metrics()
        self.metrics.max_sessions.set_function(lambda: self.settings.sidecar_max_sessions)
        self.tracing = Tracing.from_environment()
        self.errors = RecentErrors()
        self.tasks = SeparateTasks()
        limits = Limits(
            open_timeout=settings.sidecar_open_timeout,
            send_timeout=settings.sidecar_send_timeout,
            close_timeout=settings.sidecar_close_timeout,
            max_message=int(settings.sidecar_max_message),
        )
        self.dialler = Dialler(limits, proxy_from_env=settings.slng_proxy_from_env)
        self.standby = Standby(
            self.dialler,
            settings.sidecar_standby,
            settings.sidecar_session_rotate,
            self.tasks,
            partial(StandbyObserver, self.metrics, self.errors),
        )
        for state in ("ready", "opening"):
            self.metrics.standby_connections.labels(state).set_function(partial(self.standby.count, state))
        self.bridge = HttpBridge(
            limits,
            first_audio_timeout=settings.sidecar_first_audio_timeout,
            silence_timeout=settings.sidecar_terminal_timeout,
            proxy_from_env=settings.slng_proxy_from_env,
        )

    async def __aenter__(self) -> Self:
        await self.tasks.__aenter__()
        self.tasks.start(self.metrics.watch_loop(), "event loop lag")
        self.tasks.start(self.standby.look_after(), "standby")
        if self.standby.per_shape:
            for target, init in default_targets(self.settings, self.secrets):
                self.standby.want(target, init)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.tasks.__aexit__(kind, error, trace)
        finally:
            await self.bridge.close()
            if self.tracing is not None:
                await self.tracing.close()
