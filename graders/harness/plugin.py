"""The pytest plugin: makes pytest the grader.

Checks are ordinary pytest items, but each runs in a thread of the grading session, several side by
side; pytest then reports them one after the other, in their order. Tests that are no checks are
left alone.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from graders.harness import results
from graders.harness.check import Check, with_needs
from graders.harness.settings import ROOT, SettingError

SESSION = pytest.StashKey()
GRADE = pytest.StashKey()  # set by `make grade`: how to show progress; absent under plain pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("worker labs")
    group.addoption(
        "--submission", metavar="PATH", help="the folder to grade (default: starter/labNN)"
    )
    group.addoption(
        "--check",
        action="append",
        default=[],
        metavar="NAME",
        help="grade this check and what it needs; can be given more than once",
    )
    group.addoption(
        "--services",
        default=None,
        metavar="WHERE",
        help="auto, containers, embedded or external: where the servers come from",
    )
    group.addoption(
        "--patience",
        default=None,
        metavar="FACTOR",
        help="multiply every time limit by this (default 1)",
    )
    group.addoption(
        "--checks-at-once",
        type=int,
        default=None,
        metavar="N",
        help="how many checks run side by side",
    )


def declared(item: pytest.Item) -> Check | None:
    """The check that an item is, or None."""
    return getattr(getattr(item, "function", None), "declared", None)


@pytest.fixture
def lab() -> None:
    """What a check holds in its hands; the session makes it in the check's own thread."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    checks = {check.name: check for item in items if (check := declared(item))}
    wanted = config.getoption("--check")
    if not checks or not wanted:
        return
    unknown = [name for name in wanted if name not in checks]
    if unknown:
        raise pytest.UsageError(f"no check is called {unknown[0]}; there are: {', '.join(checks)}")
    chosen = set(with_needs(checks, wanted))
    out = [item for item in items if (check := declared(item)) and check.name not in chosen]
    items[:] = [item for item in items if item not in out]
    config.hook.pytest_deselected(items=out)


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> None:
    """Start grading before pytest asks for the first verdict."""
    config = session.config
    checks = {check.name: check for item in session.items if (check := declared(item))}
    if not checks or config.option.collectonly or session.testsfailed:
        return
    from graders.harness.session import GradingSession, Options

    labs = {Path(item.path).parent.name for item in session.items if declared(item)}
    if len(labs) > 1:
        raise pytest.UsageError("one lab at a time: " + ", ".join(sorted(labs)))
    lab_name = labs.pop()
    try:
        options = Options.read(
            at_once=config.getoption("--checks-at-once"),
            LAB=lab_name,
            SRC=config.getoption("--submission"),
            CHECK=",".join(config.getoption("--check")),
            SERVICES=config.getoption("--services"),
            PATIENCE=config.getoption("--patience"),
        )
    except SettingError as error:
        raise pytest.UsageError(str(error)) from None
    config.stash[SESSION] = GradingSession(
        lab_name,
        checks,
        options,
        on_progress=config.stash.get(GRADE, None),
        write_to=ROOT / "reports" / lab_name,
    )
    config.stash[SESSION].start()


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    check = declared(pyfuncitem)
    if check is None:
        return None
    result = pyfuncitem.config.stash[SESSION].result_of(check.name)
    if result.verdict == results.NOT_CHECKED:
        pytest.skip(result.reason)
    if result.verdict != results.PASSED:
        raise _Verdict(result)
    return True


class _Verdict(Exception):
    """Carries a verdict that is no pass through pytest to its report."""

    def __init__(self, result: results.CheckResult) -> None:
        super().__init__(result.name)
        self.result = result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo) -> pytest.TestReport:
    report = yield
    if call.excinfo is not None and isinstance(call.excinfo.value, _Verdict):
        from graders.harness.report import terminal

        result = call.excinfo.value.result
        lab_name = item.config.stash[SESSION].lab_name
        report.longrepr = "\n".join(terminal.check_lines(result, lab_name))
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    grading = session.config.stash.get(SESSION, None)
    if grading is not None:
        grading.finish()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    grading = terminalreporter.config.stash.get(SESSION, None)
    if grading is None or grading.lab_result is None:
        return
    result = grading.lab_result
    terminalreporter.section(f"{result.lab}: {result.earned} of {result.points} points")
    terminalreporter.line(f"All of it: {grading.report_path}")
