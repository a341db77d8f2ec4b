"""An API that cannot be configured refuses to start: three ways of that."""

from __future__ import annotations

from graders.harness.api import Api
from graders.harness.worker import how_it_ended

PASSWORD = "correct-horse-battery"


def expect_refusal(lab) -> None:
    """Start three APIs: without and with a malformed DATABASE_URL, and with a PORT that is none."""
    cases = (
        ("DATABASE_URL is not set", {"DATABASE_URL": None}, ["DATABASE_URL"]),
        (
            "DATABASE_URL is malformed (its port is no number)",
            {"DATABASE_URL": f"postgresql://worker:{PASSWORD}@127.0.0.1:none/labs"},
            ["DATABASE_URL", "127.0.0.1"],
        ),
        ("PORT is “http”, which is no number", {"PORT": "http"}, ["PORT"]),
    )
    started = [
        (what, names, lab.start_api(ready=False, env=env, told=what)) for what, env, names in cases
    ]
    for what, names, api in started:
        _expect_one(lab, what, names, api)


def _expect_one(lab, what: str, names: list[str], api: Api) -> None:
    ended = lab.history.wait_until(lambda _: api.process.exit, lab.budgets.boot)
    expected = f"{api.name}, for which {what}, refuses to start:"
    api.read_log()
    said = "\n".join(api.lines)
    log = api.log_evidence(10)
    api.fail_if_capped(expected)
    if ended is None:
        raise lab.finding(
            "started-misconfigured",
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
    died = ended.code is None
    if "Traceback (most recent call last)" in said or died:
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
