"""Finding a port on the loopback interface."""

from __future__ import annotations

import socket

from analyzer.errors import UsageError


def free_port(wanted: int) -> int:
    """`wanted` if nothing listens there, for 0 one that is free. Raises UsageError."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError as error:
            reason = error.strerror or "cannot be used"
            raise UsageError(
                f"port {wanted}: {reason.lower()}", hint="choose another with --port, or 0"
            ) from None
        return probe.getsockname()[1]
