"""The checks of a lab, and grading a folder by them from Python (for proofs and benchmarks)."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from graders.harness import settings
from graders.harness.check import Check, with_needs
from graders.harness.results import LabResult
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
) -> LabResult:
    """Grade a folder; with `only`, by those checks and what they need.

    The results are written to `write_to` (a folder), or nowhere.
    """
    checks: Mapping[str, Check] = checks_of(lab)
    wanted = list(only)
    if wanted:
        checks = {name: checks[name] for name in with_needs(checks, wanted)}
    options = Options.read(
        at_once=at_once, LAB=lab.name, SRC=str(folder), CHECK=",".join(wanted) or " "
    )
    session = GradingSession(lab.name, checks, options, write_to=write_to)
    session.start()
    try:
        for name in checks:
            session.result_of(name)
    finally:
        result = session.finish()
    assert result is not None
    return result
