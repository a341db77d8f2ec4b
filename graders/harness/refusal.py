"""A program that cannot work refuses to start, by one sentence and a status that is not 0."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from graders.harness.program import Program, how_it_ended

A_MOMENT = 10  # the part of the boot budget for one that has begun
PASSWORD = "correct-horse-battery"  # of a URL that a program is given and must not show


def expect_refused(
    program: Program, what: str, names: Sequence[str], *, code: str = "started-without-database",
    begun: Callable[[], str] = lambda: "",
) -> None:
    """A program for which `what` ("DATABASE_URL is not set") has ended, or ends, as it should.

    Its message holds one of `names`. `begun` tells in a sentence what it has begun to do instead,
    if it has; `code` is the finding then. Raises a Finding.
    """
    lab = program.lab
    lab.history.wait_until(lambda _: program.process.exit or begun(), lab.budgets.boot)
    # Some begin before they have looked at all of their configuration, and end a moment later.
    lab.history.wait_until(lambda _: program.process.exit, lab.budgets.boot / A_MOMENT)
    ended = program.process.exit
    expected = f"{program.name}, for which {what}, refuses to start:"
    program.read_log()
    said = "\n".join(program.lines)
    log = program.log_evidence(10)
    program.fail_if_capped(expected)
    if ended is None:
        raise lab.finding(
            code,
            f"{expected} it ends with a status that is not 0.",
            begun() or f"{lab.budgets.boot:.0f} s after its start it was still running.",
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
            "None of these stands in the log." if len(names) > 1 else "It does not.",
            log,
        )
