"""An API that cannot be configured refuses to start: three ways of that."""

from __future__ import annotations

from graders.harness.api import Request
from graders.harness.lab import Lab
from graders.harness.refusal import PASSWORD, expect_refused


def expect_refusal(lab: Lab) -> None:
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
    asked = [api.send_health(lab.budgets.boot) for _, _, api in started]
    for (what, names, api), request in zip(started, asked, strict=True):
        expect_refused(api, what, names, code="started-misconfigured",
                       begun=lambda request=request: _begun(request))


def _begun(request: Request) -> str:
    """What it did instead of ending, once it is seen to serve."""
    answer = request.answer
    return f"It started, and answered GET /health with {answer.status}." if answer else ""
