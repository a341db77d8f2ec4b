"""A student's migrations in a check: `migrate up` and `migrate down` on a database of their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from graders.harness.database import Database
from graders.harness.process import Exit
from graders.harness.program import Program, how_it_ended
from graders.harness.steps import Step
from graders.harness.wire import Wire

if TYPE_CHECKING:
    from graders.harness.lab import Lab


class Migration(Program):
    """A run of the submission's migrations that a check has started."""

    role = "migrate"
    exited = "migration-failed"
    lab: Lab

    def __init__(self, lab: Lab, name: str, direction: str, database: Database) -> None:
        super().__init__(lab, name)
        self.direction = direction
        self.database = database

    def proxied(self) -> tuple[Wire, dict[str, str]]:
        return self.lab.proxy(self.name, self.database)

    def start(
        self, *, hold: Callable[[Step], bool] | None, env: dict[str, str | None],
        folder: Path | None, prepare: Callable[[Program], None] | None,
    ) -> None:
        """Start it. Does not wait for anything."""
        self.run(env, hold=hold, arguments=(self.direction,), cwd=folder, prepare=prepare)

    @property
    def said(self) -> str:
        """All that it has printed."""
        return "\n".join(self.lines)

    def wait_end(self) -> Exit | None:
        """How it ended, within the boot and the work budget; None if it still runs."""
        budgets = self.lab.budgets
        ended = self.lab.history.wait_until(
            lambda _: self.process.exit, budgets.boot + budgets.work
        )
        self.read_log()
        return ended

    def expect_end(self) -> Exit:
        """It ends by itself, whatever its status. Raises a Finding."""
        ended = self.wait_end()
        expected = f"{self.name} (migrate {self.direction}) ends by itself."
        self.fail_if_capped(expected)
        if ended is None:
            budgets = self.lab.budgets
            raise self.lab.finding(
                "still-running", expected,
                f"{budgets.boot + budgets.work:.0f} s after its start it was still running.",
                self.statement_evidence(), self.log_evidence(),
            )  # fmt: skip
        return ended

    def expect_success(self) -> None:
        """It ends with exit status 0. Raises a Finding."""
        ended = self.expect_end()
        if ended.code != 0:
            raise self.lab.finding(
                "migration-failed",
                f"{self.name} (migrate {self.direction}) ends with exit status 0.",
                f"It {how_it_ended(ended)}.",
                self.statement_evidence(), self.log_evidence(),
            )  # fmt: skip
