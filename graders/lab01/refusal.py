"""A worker without a usable Redis refuses to start: the three ways of having none."""

from __future__ import annotations

import contextlib
import socket

from graders.harness.jobs import JobsLab, JobsWorker
from graders.harness.program import how_it_ended

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
            _expect_one(lab, what, names, worker)


def _expect_one(lab: JobsLab, what: str, names: list[str], worker: JobsWorker) -> None:
    lab.history.wait_until(lambda _: worker.process.exit or worker.polls(), lab.budgets.boot)
    ended = worker.process.exit
    expected = f"{worker.name}, for which {what}, refuses to start:"
    said = "\n".join(worker.lines)
    log = worker.log_evidence(10)
    worker.fail_if_capped(expected)
    if ended is None:
        raise lab.finding(
            "started-without-database",
            f"{expected} it ends with a status that is not 0.",
            "It has started, and asked for a job." if worker.polls()
            else f"{lab.budgets.boot:.0f} s after its start it was still running.",
            log,
        )  # fmt: skip
    if ended.code == 0:
        raise lab.finding(
            "status-0-on-refusal",
            f"{expected} it ends with a status that is not 0.",
            "It ended with exit status 0, which says that all is well.",
            log,
        )
    died = ended.code is None
    if died or "Traceback (most recent call last)" in said:
        raise lab.finding(
            "traceback-on-refusal",
            f"{expected} one sentence says why.",
            f"It {how_it_ended(ended)}{'' if died else ', with a traceback'}.",
            log,
        )
    if not any(name.lower() in said.lower() for name in names):
        raise lab.finding(
            "cause-not-named",
            f"{expected} its message names {' or '.join(names)}.",
            "None of these stands in the log.",
            log,
        )
