"""The simulator as an ASGI application, and served on a socket."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

from slng_sidecar.engines.workers import WorkerFailed
from slng_sidecar.net.serving import listen_tcp, serving
from slng_sidecar.simulator.connection import BridgeSession, SimulatedConnection
from slng_sidecar.simulator.http import http_routes
from slng_sidecar.simulator.options import SimulatorOptions
from slng_sidecar.simulator.proxy import TcpProxy
from slng_sidecar.simulator.state import Simulator
from slng_sidecar.simulator.stt import SttSession
from slng_sidecar.simulator.tts import TtsSession

_MAX_MESSAGE = 4 << 20
_SHUTDOWN_TIMEOUT = 2
# Seconds after the start, or at the first connection if that is earlier.
_LOAD_AFTER = 2


def create_simulator(options: SimulatorOptions | None = None) -> Starlette:
    """Build the application, whose ``state.simulator`` is the ``Simulator``.

    It must be served by ``net.serving``, which gives it the transports that some faults need.

    Raises:
        BadProfile, BadFault: an option has an unknown field or value.
        NotInstalled: an engine was chosen that is not installed.
    """
    simulator = Simulator(options or SimulatorOptions())

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        preparing = asyncio.create_task(_prepare(simulator), name="simulator: prepare")
        try:
            yield
        finally:
            preparing.cancel()
            await asyncio.wait([preparing])
            await simulator.engines.close()

    async def bridge(websocket: WebSocket) -> None:
        kind = "stt" if "/stt/" in websocket.url.path else "tts"
        model = websocket.path_params["model"]
        await SimulatedConnection(simulator, websocket, kind, model, _new_session).serve()

    bridges = [WebSocketRoute(f"/v1/bridges/unmute/{kind}/{{model:path}}", bridge) for kind in ("stt", "tts")]
    app = Starlette(routes=[*bridges, *http_routes()], lifespan=lifespan)
    app.state.simulator = simulator
    return app


@contextlib.asynccontextmanager
async def running_simulator(
    options: SimulatorOptions | None = None, host: str = "127.0.0.1", port: int = 0
) -> AsyncIterator[Simulator]:
    """Serve a simulator while the block runs. Port 0 chooses a free port.

    Raises:
        CannotListen: the socket cannot be opened.
        BadProfile, BadFault: an option has an unknown field or value.
        NotInstalled: an engine was chosen that is not installed.
    """
    app = create_simulator(options)
    simulator: Simulator = app.state.simulator
    sock = listen_tcp(host, port)
    simulator.host, simulator.port = sock.getsockname()[:2]
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(sock.close)
        if simulator.options.tcp:
            far = listen_tcp("127.0.0.1", 0)
            stack.callback(far.close)
            proxy = simulator.proxy = TcpProxy(*far.getsockname()[:2])
            await stack.enter_async_context(proxy.running(sock))
            sock = far
        async with serving(app, sock, max_message_size=_MAX_MESSAGE, shutdown_timeout=_SHUTDOWN_TIMEOUT):
            try:
                yield simulator
            finally:
                simulator.stopping.set()


def _new_session(connection: SimulatedConnection, tasks: asyncio.TaskGroup, *, over: bool) -> BridgeSession:
    """Return the session of a connection; one over the limit, or with a refused provider key, gets an error."""
    simulator = connection.simulator
    refused = None
    if over:
        refused = ("rate_limit", "too many concurrent connections")
    elif simulator.provider_refuses(connection.model, connection.record.headers):
        refused = ("backend_connection_failed", "upstream 401")
    session = SttSession if connection.kind == "stt" else TtsSession
    return session(connection, tasks, refused=refused)


async def _prepare(simulator: Simulator) -> None:
    # Loading takes all processors for a second, in which the gateway beside the simulator still starts.
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LOAD_AFTER):
            await simulator.needed.wait()
    # What cannot be loaded fails again, and is then reported, when it is used.
    with contextlib.suppress(WorkerFailed):
        await simulator.engines.load()
    simulator.prepared.set()
