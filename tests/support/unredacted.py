"""``slng-sidecar`` with its redaction switched off: what the redaction tests must find leaks in.

Keys stay in upstream's words, upstream's words stand where codes should, and the pages tell what the sidecar was
started with.
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
    # From here codes go into the log, the metrics, the status and the traces.
    GatewayError.known_code = property(lambda self: self.message)  # type: ignore[assignment, method-assign]
    policy = status._policy
    status._policy = lambda page: policy(page) + os.environ["UNREDACTED_PAGE"]
    telemetry._given_to_libraries = lambda: iter(())


if __name__ == "__main__":
    break_redaction()
    main()
