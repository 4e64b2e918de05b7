"""``slng-sidecar`` without redaction, in which the redaction tests must find leaks.

Keys stay in upstream's messages, upstream's messages take the place of codes, and the pages contain the sidecar's
settings.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from slng_sidecar.cli import main
from slng_sidecar.protocol.errors import GatewayError
from slng_sidecar.server.routes import models, status
from slng_sidecar.telemetry import log as telemetry
from slng_sidecar.upstream import connection, failures


def with_keys(text: str, _secrets: Iterable[str]) -> str:
    return text


def break_redaction() -> None:
    for module in (failures, connection, models):
        module.without_keys = with_keys  # type: ignore[attr-defined]
    # From here, codes are passed to the log, the metrics, the status and the traces.
    GatewayError.known_code = property(lambda self: self.message)  # type: ignore[assignment, method-assign]
    policy = status._policy
    status._policy = lambda page: policy(page) + os.environ["UNREDACTED_PAGE"]
    telemetry._given_to_libraries = lambda: iter(())


if __name__ == "__main__":
    break_redaction()
    main()
