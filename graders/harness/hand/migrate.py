"""`make migrate`: the student's migrations, up or (with DOWN=1) one down."""

from __future__ import annotations

import signal
from collections.abc import Mapping

from graders.harness import settings
from graders.harness.hand.foreground import Program, foreground, submission_of
from graders.harness.settings import EXIT_STOPPED, Lab


def main(env: Mapping[str, str]) -> int:
    """Run the migrations in the foreground; their own exit status."""
    chosen = settings.read(env)
    lab = chosen.the_lab
    submission = submission_of(chosen, "migrate", _has_none(lab))
    direction = "down" if chosen.down else "up"
    program = Program("migrate", "migrate", arguments=(direction,), alone=True)
    with foreground(submission, lab, env, ()) as runs:
        runs.run([program])
    if program.by == signal.SIGINT.name:
        return EXIT_STOPPED
    return 1 if program.code is None else program.code


def _has_none(lab: Lab) -> str:
    made = f" Its table is made by: make up LAB={lab.number}" if "postgres" in lab.services else ""
    return f"Lab {lab.number} has no migrations.{made}"
