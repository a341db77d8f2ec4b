"""`make run`: workers in the foreground, their logs side by side."""

from __future__ import annotations

from collections.abc import Mapping

from graders.harness import settings
from graders.harness.hand.foreground import Program, foreground, submission_of
from graders.harness.settings import Lab

# Of the user's own environment, what the handouts tell to set.
PASSED_ON = ("WORKER_ID", "WORKER_POLL_INTERVAL", "WORKER_STUCK_AFTER", "WORK_URL")


def main(env: Mapping[str, str]) -> int:
    """Run N workers until all have ended; 1 if one ended with an error of its own."""
    chosen = settings.read(env)
    lab = chosen.the_lab
    instead = f" Run its API with: make api LAB={lab.number}" if "api" in lab.roles else ""
    submission = submission_of(chosen, "worker", f"Lab {lab.number} has no worker.{instead}")
    programs = [_worker(n, env, lab) for n in range(1, (chosen.n or 1) + 1)]
    with foreground(submission, lab, env, PASSED_ON) as runs:
        runs.run(programs)
    return int(any(each.failed for each in programs))


def _worker(n: int, env: Mapping[str, str], lab: Lab) -> Program:
    """The n-th worker. Several of one command never have one name.

    Where a worker without WORKER_ID finds a name of its own, that is left to it: two `make run`
    side by side must not give two workers one name.
    """
    name, own = f"worker-{n}", env.get("WORKER_ID")
    if own:
        named = {"WORKER_ID": own if n == 1 else f"{own}-{n}"}
    else:
        named = {"WORKER_ID": name} if "redis" in lab.services else {}
    return Program(name, "worker", named)
