"""A worker without a usable database refuses to start: the three ways of having none."""

from __future__ import annotations

import socket

from graders.harness.worker import Worker, how_it_ended

PASSWORD = "correct-horse-battery"


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
            _expect_one(lab, what, names, worker)


def _expect_one(lab, what: str, names: list[str], worker: Worker) -> None:
    ended = lab.history.wait_until(lambda _: worker.process.exit, lab.budgets.boot)
    expected = f"{worker.name}, for which {what}, refuses to start:"
    said = "\n".join(worker.lines)
    log = worker.log_evidence(10)
    worker.fail_if_capped(expected)
    if ended is None:
        raise lab.finding(
            "started-without-database",
            f"{expected} it ends with a status that is not 0.",
            f"{lab.budgets.boot:.0f} s after its start it was still running.",
            log,
        )
    if ended.code == 0:
        raise lab.finding(
            "status-0-on-refusal",
            f"{expected} it ends with a status that is not 0.",
            "It ended with exit status 0, which says that all is well.",
            log,
        )
    if PASSWORD in said:
        raise lab.finding(
            "password-shown",
            f"{expected} its message does not show the password.",
            "The password stands in the log.",
            log,
        )
    worker_died = ended.code is None
    if "Traceback (most recent call last)" in said or worker_died:
        raise lab.finding(
            "traceback-on-refusal",
            f"{expected} one sentence says why.",
            f"It {how_it_ended(ended)}{'' if worker_died else ', with a traceback'}.",
            log,
        )
    if not any(name.lower() in said.lower() for name in names):
        raise lab.finding(
            "cause-not-named",
            f"{expected} its message names {' or '.join(names)}.",
            "None of these stands in the log.",
            log,
        )
