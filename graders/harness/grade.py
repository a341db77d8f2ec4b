"""`make grade`: pytest with the plugin, and what the student sees of it."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping

import pytest

from graders.harness import plugin, results, settings
from graders.harness.catalog import checks_of
from graders.harness.report import runs as runs_table
from graders.harness.report import terminal
from graders.harness.report.progress import Progress
from graders.harness.results import LabResult


class MakeGrade:
    """Takes pytest's own report off the screen and puts a progress line there instead."""

    def __init__(self, progress: Progress | None) -> None:
        self.progress = progress
        self.result: LabResult | None = None
        self.trouble = ""
        self._told: set[str] = set()

    @pytest.hookimpl(trylast=True)
    def pytest_configure(self, config: pytest.Config) -> None:
        config.pluginmanager.unregister(name="terminalreporter")
        config.stash[plugin.GRADE] = self.show

    def show(self, session: object) -> None:
        """Called from the checks' threads whenever one begins or ends."""
        if self.progress is None:
            return
        done = list(session.results.values())
        for result in done:
            if result.name not in self._told:
                self._told.add(result.name)
                self.progress.finished(result)
        self.progress.total = len(session.checks)
        failed = sum(result.verdict == results.FAILED for result in done)
        self.progress.update(len(done), failed, list(session.running))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.trouble = str(report.longrepr).strip().splitlines()[-1]

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        grading = session.config.stash.get(plugin.SESSION, None)
        if grading is not None:
            self.result = grading.lab_result


def grade_once(lab: settings.Lab, chosen: settings.Settings, progress: Progress | None) -> (
    LabResult | int
):  # fmt: skip
    """Grade one submission once; its result, or an exit status when there is none."""
    arguments = [
        str(lab.grader),
        f"--rootdir={settings.ROOT}",
        f"--confcutdir={settings.ROOT}",
        "-c", str(settings.ROOT / "pyproject.toml"),
        "-p", "no:cacheprovider",
        # Nothing here uses them, and nbval alone takes two seconds to load once it is installed.
        "--disable-plugin-autoload",
        "--capture=no",  # it would take the progress line as well
        f"--submission={chosen.submission}",
        f"--services={chosen.services}",
        f"--patience={chosen.patience}",
        *(f"--check={name}" for name in chosen.checks),
    ]  # fmt: skip
    ours = MakeGrade(progress)
    try:
        status = pytest.main(arguments, plugins=[ours])
    except pytest.UsageError as error:
        print(error, file=sys.stderr)
        return settings.EXIT_USAGE
    if progress is not None:
        progress.close()
    if ours.result is not None:
        return ours.result
    if status == pytest.ExitCode.INTERRUPTED:
        print("\nStopped. Nothing was written; the last results are as they were.", file=sys.stderr)
        return settings.EXIT_STOPPED
    if status != pytest.ExitCode.USAGE_ERROR:  # pytest has printed that one
        print(
            f"The grader could not start: {ours.trouble or 'no check was found'}.", file=sys.stderr
        )
    return results.EXIT_COULD_NOT_GRADE


def main(env: Mapping[str, str] | None = None) -> int:
    """Grade as the environment says (LAB, SRC, CHECK, RUNS …); the exit status."""
    os.environ.update(env or {})
    chosen = settings.read()
    lab, _ = chosen.the_lab, chosen.submission  # refused here, before anything is started
    if not lab.grader.is_dir():
        print(f"{lab.name} has no grader yet.", file=sys.stderr)
        return results.EXIT_COULD_NOT_GRADE
    known = checks_of(lab)
    for name in chosen.checks:
        if name not in known:
            listed = "\n".join(f"  {each}" for each in known)
            print(f"{lab.name} has no check “{name}”. There are:\n{listed}", file=sys.stderr)
            return settings.EXIT_USAGE
    if chosen.step and not (len(chosen.checks) == 1 and known[chosen.checks[0]].explores):
        listed = "\n".join(f"  CHECK={each.name}" for each in known.values() if each.explores)
        print(f"STEP={chosen.step} is a moment of one check: say which. There are:\n{listed}",
              file=sys.stderr)
        return settings.EXIT_USAGE
    if chosen.runs > 1:
        return _many(lab, chosen)
    color = terminal.color_wanted(sys.stdout)
    # One moment is told as it happens, and there is nothing to count.
    progress = None if chosen.step else Progress(sys.stdout, verbose=chosen.verbose, color=color)
    result = grade_once(lab, chosen, progress)
    if isinstance(result, int):
        return result
    if any(check.reason.startswith(results.NO_SUCH_STEP) for check in result.checks):
        name = chosen.checks[0]
        print(f"{results.NO_SUCH_STEP}{chosen.step} in {name}. To see all moments, put explore for "
              "grade, and leave STEP out.", file=sys.stderr)
        return settings.EXIT_USAGE
    width = 100
    if sys.stdout.isatty():
        width = min(width, shutil.get_terminal_size((width, 24)).columns)
    terminal.write(result, sys.stdout, color=color, width=width,
                   verbose=chosen.verbose or bool(chosen.step))
    if problem := result.extra.get("not_written"):
        print(problem, file=sys.stderr)
        return results.EXIT_COULD_NOT_GRADE
    return result.exit_status


def _many(lab: settings.Lab, chosen: settings.Settings) -> int:
    """RUNS=20: the same again and again, and a table of check, passes and fails."""
    seen: list[LabResult] = []
    for number in range(chosen.runs):
        if sys.stdout.isatty():
            print(f"\rrun {number + 1} of {chosen.runs} ", end="", flush=True)
        result = grade_once(lab, chosen, None)
        if isinstance(result, int):
            if not seen:
                return result
            break
        seen.append(result)
    if sys.stdout.isatty():
        print("\r", end="")
    runs_table.write(seen, sys.stdout)
    return max(result.exit_status for result in seen)
