"""The checks of a lab, and grading a folder by them from Python (for proofs and benchmarks)."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from graders.harness import servers, settings
from graders.harness.check import Check, with_needs
from graders.harness.keeper import Keeper
from graders.harness.results import LabResult
from graders.harness.servers import Services
from graders.harness.servers.base import run_folder
from graders.harness.session import GradingSession, Options


def checks_of(lab: settings.Lab) -> dict[str, Check]:
    """All checks of a lab by name, in the order in which they are graded."""
    found: dict[str, Check] = {}
    for path in sorted(lab.grader.glob("test_*.py")):
        module = importlib.import_module(f"graders.{lab.name}.{path.stem}")
        for value in vars(module).values():
            declared = getattr(value, "declared", None)
            if isinstance(declared, Check) and value.__module__ == module.__name__:
                found[declared.name] = declared
    return found


def grade_folder(
    lab: settings.Lab,
    folder: Path,
    only: Iterable[str] = (),
    at_once: int | None = None,
    write_to: Path | None = None,
    standing: Services | None = None,
    alone: bool = False,
) -> LabResult:
    """Grade a folder; with `only`, by those checks and what they need, or by those `alone`.

    The results are written to `write_to` (a folder), or nowhere. `standing` are servers to use, and
    to leave running (see standing_servers).
    """
    checks: Mapping[str, Check] = checks_of(lab)
    wanted = list(only)
    if wanted and alone:
        checks = {name: replace(checks[name], needs=()) for name in checks if name in wanted}
    elif wanted:
        checks = {name: checks[name] for name in with_needs(checks, wanted)}
    options = Options.read(
        at_once=at_once, LAB=lab.name, SRC=str(folder), CHECK=",".join(wanted) or " "
    )
    session = GradingSession(lab.name, checks, options, write_to=write_to, standing=standing)
    session.start()
    try:
        for name in checks:
            session.result_of(name)
    finally:
        result = session.finish()
    assert result is not None
    return result


@contextlib.contextmanager
def standing_servers(kinds: Iterable[str], mode: str = "auto") -> Iterator[Services]:
    """Servers for many gradings in a row: to start some costs as much as a whole small grading.

    Raises ServerError.
    """
    keeper = Keeper.start()
    folder = run_folder("wl-")
    keeper.tidy(folder)
    try:
        services = servers.start(set(kinds), mode, keeper, folder)
        try:
            yield services
        finally:
            services.stop()
    finally:
        keeper.close()
