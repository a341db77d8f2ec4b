"""A worker without a usable Redis refuses to start: the three ways of having none."""

from __future__ import annotations

import contextlib
import socket

from graders.harness.jobs import JobsLab
from graders.harness.refusal import expect_refused

TYPO = "63o79"  # with a letter in it


def expect_refusal(lab: JobsLab) -> None:
    """Start three workers: nothing listens, the port is no number, the port is too high."""
    # Bound but not listening: connections to it are refused, and nobody else can take the port.
    with socket.socket() as nobody, contextlib.closing(lab.proxy("worker-3")[0]) as wire:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        # Some resolvers cut a port to 16 bits: who does not look finds a Redis there.
        too_high = str(wire.port + 65_536)
        place = ["REDIS_HOST", "127.0.0.1", "localhost"]
        cases = [
            (f"nothing listens at port {port}", str(port), [*place, "REDIS_PORT", str(port)]),
            (f"REDIS_PORT is {TYPO}", TYPO, [*place, "REDIS_PORT"]),
            (f"REDIS_PORT is {too_high}, above 65535", too_high, [*place, "REDIS_PORT"]),
        ]
        started = [
            (what, names, lab.start_worker(ready=False, env={"REDIS_PORT": value}, told=what))
            for what, value, names in cases
        ]
        for what, names, worker in started:
            expect_refused(
                worker, what, names,
                begun=lambda w=worker: "It has started, and asked for a job." if w.polls() else "",
            )
