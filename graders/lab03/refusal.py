"""A worker without a usable database refuses to start: the three ways of having none."""

from __future__ import annotations

import socket

from graders.harness.refusal import PASSWORD, expect_refused


def expect_refusal(lab) -> None:
    """Start three workers, without, with a malformed and with an unreachable DATABASE_URL."""
    # Bound but not listening: connections to it are refused, and nobody else can take the port.
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        cases = [
            ("DATABASE_URL is not set", None, ["DATABASE_URL"]),
            (
                "DATABASE_URL is malformed (its port is no number)",
                f"postgresql://worker:{PASSWORD}@127.0.0.1:none/labs",
                ["DATABASE_URL", "127.0.0.1"],
            ),
            (
                "nothing listens where DATABASE_URL points to",
                f"postgresql://worker:{PASSWORD}@127.0.0.1:{port}/labs",
                ["DATABASE_URL", "127.0.0.1", "localhost", str(port)],
            ),
        ]
        started = [
            (what, names, lab.start_worker(ready=False, env={"DATABASE_URL": url}, told=what))
            for what, url, names in cases
        ]
        for what, names, worker in started:
            expect_refused(worker, what, names)
