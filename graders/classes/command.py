"""`make grade-all LAB=03 DIR=submissions OUT=results`: grade a whole class."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from graders.classes import layouts, look, pages, records, scores, summary
from graders.classes.alone import alone_in
from graders.classes.archives import ArchiveError
from graders.classes.lanes import Trouble
from graders.classes.layouts import Entry
from graders.classes.progress import ClassProgress, duration
from graders.classes.records import Record
from graders.classes.runner import STUDENTS, Class_, Plan, lanes
from graders.classes.scores import Row
from graders.harness import settings, version
from graders.harness.catalog import checks_of
from graders.harness.keeper import temporary_folder
from graders.harness.report import terminal
from graders.harness.report.text import wrap
from graders.harness.results import EXIT_COULD_NOT_GRADE
from graders.harness.settings import EXIT_STOPPED, SettingError

LIMIT = 600.0  # seconds for one submission, times PATIENCE: a grading takes 10 to 60
ALL, UNGRADED = "all", "could-not-grade"  # what AGAIN may say besides names


def main(env: Mapping[str, str]) -> int:
    """Grade a class as the environment says (LAB, DIR, OUT, JOBS, LIMIT, AGAIN, LOOK).

    0 if all that could be opened is graded, 2 if something could not be, 130 after Ctrl-C.
    """
    asked = _read(env)
    try:
        # Where nothing is written, nobody is in the way.
        lock = contextlib.nullcontext() if asked.look else _alone(asked.out)
        with lock, temporary_folder("wl-class-") as work, _stopped_by_signals():
            plan, entries, remarks = _found(asked, work)
            if asked.look:
                return _look(plan, entries, remarks)
            return _grade(asked, plan, entries, remarks)
    except OSError as error:
        what = "The submissions cannot be looked at" if asked.look else \
            "The results cannot be written"
        raise SettingError(f"{what}: {error.strerror or error}.") from None


@dataclass(frozen=True)
class Asked:
    """The variables of the command, read and checked."""

    chosen: settings.Settings
    lab: settings.Lab
    source: Path
    out: Path
    jobs: int
    limit: float
    again: tuple[str, ...]
    look: bool  # and grade nothing


def _read(env: Mapping[str, str]) -> Asked:
    # What is said to one grading (SRC, CHECK, STEP) means nothing here.
    kept = {k: v for k, v in env.items() if k in ("LAB", "SERVICES", "PATIENCE", "VERBOSE", "SEED")}
    chosen = settings.read(kept)
    lab = chosen.the_lab
    if not checks_of(lab):
        raise SettingError(f"{lab.name} has no grader yet.")
    source = _path(env, "DIR", "the submissions, as in DIR=submissions")
    looks = settings.switch("LOOK", env.get("LOOK", "").strip() or "0")
    out = None if looks else _path(env, "OUT", "where the results go, as in OUT=results")
    _check_paths(source, out)
    jobs = lanes()
    if env.get("JOBS", "").strip():
        jobs = settings.whole("JOBS", env["JOBS"].strip(), 1, 64)
    if chosen.services == "external":
        # Lanes do not know how many connections, or which of Redis's databases, the others use.
        jobs = 1
    limit = settings.whole("LIMIT", env.get("LIMIT", "").strip() or f"{LIMIT:.0f}", 5, 86_400)
    again = tuple(filter(None, re.split(r"[\s,]+", env.get("AGAIN", ""))))
    return Asked(chosen, lab, source, out or Path(), jobs, limit * chosen.patience, again, looks)


def _path(env: Mapping[str, str], name: str, what: str) -> Path:
    value = env.get(name, "")
    if not value.strip():
        raise SettingError(f"Say {what}.")
    try:
        return Path(value).expanduser()
    except RuntimeError:
        raise SettingError(f"{name}={value} names a user who is not here.") from None


def _check_paths(source: Path, out: Path | None) -> None:
    try:
        if not source.exists():
            raise SettingError(f"There is no folder or archive DIR={source} (seen from "
                               f"{Path.cwd()}).")
        if out is None:
            return
        if out.exists() and not out.is_dir():
            raise SettingError(f"OUT={out} is a file; name a folder.")
        if source.is_dir() and out.resolve().is_relative_to(source.resolve()):
            raise SettingError(f"OUT={out} lies inside DIR={source}, where the submissions are; "
                               "name a folder elsewhere.")
    except (OSError, RuntimeError) as error:  # a name that is too long, a folder that is closed
        raise SettingError(f"DIR={source} or OUT={out} cannot be looked at: "
                           f"{getattr(error, 'strerror', None) or error}.") from None


def _found(asked: Asked, work: Path) -> tuple[Plan, list[Entry], list[str]]:
    """Whose submissions there are, what is to be done with them, and remarks on their folder."""
    lab = asked.lab
    remarks: list[str] = []
    try:
        entries = layouts.find(asked.source, work / "class", lab.number, remarks)
    except ArchiveError as error:
        raise SettingError(error.message) from None
    except OSError as error:
        raise SettingError(f"DIR={asked.source} cannot be read: {error.strerror}.") from None
    if not entries:
        raise SettingError(f"There are no submissions in DIR={asked.source}.")
    plan = Plan(
        lab=lab, source=asked.source, out=asked.out, work=work, kit=version.version(),
        jobs=asked.jobs, limit=asked.limit, services=asked.chosen.services,
        patience=asked.chosen.patience,
    )
    return plan, entries, remarks


def _look(plan: Plan, entries: Sequence[Entry], remarks: Sequence[str]) -> int:
    """Say what would be graded; 0, or 130 after Ctrl-C."""
    try:
        for remark in remarks:
            _tell(lambda text=remark: _say(text))
        for line in look.look(plan, entries):
            _tell(lambda text=line: print(text))
    except Trouble as error:
        raise SettingError(str(error)) from None
    except KeyboardInterrupt:
        return EXIT_STOPPED
    return 0


def _grade(asked: Asked, plan: Plan, entries: Sequence[Entry], remarks: Sequence[str]) -> int:
    lab, out = plan.lab, plan.out
    # What is known before anything is graded: the table has it until there is something newer.
    earlier = {entry.student: Row.of(record, plan.folder(entry.student)) for entry in entries
               if (record := records.load(plan.folder(entry.student))) is not None}
    _check_lab(plan, earlier)
    for student in _again(asked, entries, earlier):
        if student in earlier:
            records.doubt(earlier[student].record, plan.folder(student))
        records.ended(plan.folder(student))
    checks = checks_of(lab)
    heading = (f"Lab {lab.number}, {lab.title}: {len(entries)} "
               f"submission{'' if len(entries) == 1 else 's'}, "
               f"{min(plan.jobs, len(entries))} side by side, into {out}")
    for each in (heading, *remarks):
        _tell(lambda text=each: _say(text))
    progress = ClassProgress(
        sys.stdout, len(entries), plan.jobs, terminal.color_wanted(sys.stdout)
    )

    rows: dict[str, Row] = {}

    def ended(record: Record, kept: bool) -> None:
        row = rows[record.student] = Row.of(record, plan.folder(record.student))
        _tell(lambda: progress.end(row, kept))
        if not kept:  # also for whoever looks before the end
            # A spreadsheet may hold it open, where that keeps others from writing it.
            with contextlib.suppress(OSError):
                scores.write(_sorted({**earlier, **rows}), checks, out / scores.NAME)

    run = Class_(
        plan, entries, on_end=ended,
        on_begin=lambda entry: _tell(lambda: progress.begin(entry.student, entry.name)),
        on_ready=lambda notes: _tell(lambda: progress.note(" ".join(notes))),
    )
    if run.suspects:
        names = ", ".join(entry.name for entry in run.suspects)
        _tell(lambda: _say("Under way when the last run was ended, and so graded last, one at a "
                           f"time: {names}."))
    stopped = False
    try:
        run.run()
    except KeyboardInterrupt:
        stopped = True
    finally:
        _tell(progress.close)
    found = _sorted(rows)
    table = _sorted({**earlier, **rows}) if stopped or run.trouble else found
    if table:
        scores.write(table, checks, out / scores.NAME)
    how = "The same command without AGAIN goes" if asked.again else "The same command goes"
    changed = summary.changed(earlier, found)
    _tell(lambda: _say_changed(changed))
    if stopped:
        print(f"\nStopped after {len(found)} of {len(entries)}. {how} on from here.",
              file=sys.stderr)
        return EXIT_STOPPED
    if run.trouble:
        print(f"{run.trouble}\n{len(found)} of {len(entries)} are graded. {how} on from here.",
              file=sys.stderr)
        return EXIT_COULD_NOT_GRADE
    summary.write(found, lab, checks, plan.kit, out / summary.NAME, remarks, changed)
    pages.write(
        lab, settings.ROOT / "solutions" / lab.name / "ANSWERS.md",
        [_answered(row, plan) for row in found], out / "answers",
    )
    _tell(lambda: _closing(found, plan))
    return EXIT_COULD_NOT_GRADE if any(row.is_open for row in found) else 0


def _sorted(rows: Mapping[str, Row]) -> list[Row]:
    return [rows[student] for student in sorted(rows)]


def _again(
    asked: Asked, entries: Sequence[Entry], earlier: Mapping[str, Row]
) -> frozenset[str]:
    """Whom AGAIN asks for."""
    known = {entry.student for entry in entries}
    if ALL in asked.again:
        return frozenset(known)
    wanted = set(asked.again)
    if UNGRADED in wanted:
        wanted.discard(UNGRADED)
        wanted.update(student for student, row in earlier.items() if row.is_open)
    if unknown := sorted(wanted - known):
        raise SettingError(f"AGAIN={unknown[0]} is no student here; the names are those of the "
                           f"folders in {asked.out / 'students'}.")
    return frozenset(wanted)


def _answered(row: Row, plan: Plan) -> pages.Answered:
    folder = plan.folder(row.record.student)
    return pages.Answered(
        student=row.record.student, name=row.record.name, folder=folder,
        note=row.why_not or row.record.answers,
    )


def _check_lab(plan: Plan, earlier: Mapping[str, Row]) -> None:
    """Raises SettingError where results of another lab are, which would be written over."""
    others = (records.load(f) for f in _folders(plan.out) if f.name not in earlier)
    for record in (*(row.record for row in earlier.values()), *others):
        if record is not None and record.lab != plan.lab.name:
            raise SettingError(f"OUT={plan.out} holds results of {record.lab}; name another folder "
                               f"for those of {plan.lab.name}.")


def _say_changed(changed: Sequence[str]) -> None:
    """Whose points are others than before. The next run does not know any more what they were."""
    if changed:
        more = f" … and {len(changed) - 5} more" if len(changed) > 5 else ""
        print()
        _say(f"Other points than in the last run: {'; '.join(changed[:5])}{more}.")


def _closing(rows: Sequence[Row], plan: Plan) -> None:
    """What there is now, and what to look at first."""
    out = plan.out
    graded = [row.points for row in rows if row.points is not None]
    print()
    if graded:
        _say(f"{len(graded)} graded, {sum(graded) / len(graded):.0f} points on average, in "
             f"{duration(60 * sum(row.record.minutes for row in rows))} of grading.")
    if unopened := [row.record.name for row in rows if not row.record.opened]:
        _say(f"{len(unopened)} cannot be opened, or hold nothing: {', '.join(unopened)}.")
    if unsettled := [row.record.name for row in rows if row.is_open]:
        _say(f"{len(unsettled)} could not be graded, or not wholly, which costs no points: "
             f"{', '.join(unsettled)}. AGAIN={UNGRADED} takes them up again.")
    here = {row.record.student for row in rows}
    stale = [folder.name for folder in _folders(out) if folder.name not in here]
    if stale:
        _say(f"Of {', '.join(stale[:5])}{' …' if len(stale) > 5 else ''} there are results from an "
             "earlier run, and no submission.")
    for name, what in (
        (summary.NAME, "which checks fail most, and what to talk about"),
        (scores.NAME, "the table"),
        (f"{STUDENTS}/", "results and feedback of each"),
        ("answers/index.html", "ANSWERS.md, question by question, to be marked"),
    ):
        print(f"  {out}/{name}".ljust(44) + f"  {what}")


def _folders(out: Path) -> list[Path]:
    """The folders of students in here, also of such as have no submission now."""
    with contextlib.suppress(OSError):
        return sorted((out / STUDENTS).iterdir())
    return []


def _tell(tell: Callable[[], None]) -> None:
    """Tell how it goes on. Where nobody listens any more (`| head`), the grading goes on."""
    try:
        tell()
        sys.stdout.flush()
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _say(text: str) -> None:
    print("\n".join(wrap(text, 100)))


# Around a run


def _alone(out: Path) -> contextlib.AbstractContextManager[None]:
    """Two runs into one folder would write over each other."""
    return alone_in(out, f"OUT={out}", f"Another run is grading into {out} now.")


@contextlib.contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end a run as Ctrl-C does."""

    def interrupt(_: int, __: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {each: signal.signal(each, interrupt) for each in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
