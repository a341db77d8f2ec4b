"""An API that cannot be configured refuses to start: three ways of that."""

from __future__ import annotations

from graders.harness.refusal import PASSWORD, expect_refused


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
        expect_refused(api, what, names, code="started-misconfigured")
