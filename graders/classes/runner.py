"""Grades a class: several lanes side by side, each submission in isolation, nothing twice.

A submission that hangs, or ends its grader, costs its own time limit and nothing else. Whatever
ends the run, what was graded stays: the next run takes up the rest (records.py says how it knows).
What was under way when a run was ended comes last then, one at a time, since one of them may have
done it; whoever was under way alone when a run was killed again is not tried a third time.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from pathlib import Path

from graders.classes import feedback, layouts, papers, records
from graders.classes.archives import ArchiveError, shown
from graders.classes.lane import Order
from graders.classes.lanes import Lane, LaneGone, LaneHangs, Trouble
from graders.classes.layouts import Entry
from graders.classes.records import Record
from graders.harness import settings

LANES_PER_CORE = 1.5  # what one waits for, the processor does others meanwhile
STUDENTS = "students"  # the folder of their folders
UNPACKED = "unpacked"  # where their archives are opened
# What keeps this machine from opening an archive, whatever is in it.
OWN_TROUBLE = (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.EROFS)
TRIES = 2  # of a submission whose lane ended under it
RUNS = 2  # that a submission may see killed while it is graded
ENDS_RUNS = (
    "The whole run was killed {} times while it was graded, the last time while nothing else was. "
    "AGAIN={} tries it once more."
)
# An average, with its servers and the workers that it starts.
LANE_MEMORY = 450 << 20  # bytes


def lanes() -> int:
    """How many submissions are graded side by side, where nobody says."""
    wanted = math.ceil(LANES_PER_CORE * settings.cores())
    return max(1, min(wanted, settings.memory() // LANE_MEMORY))


@dataclass(frozen=True)
class Plan:
    """What is to be graded, and how."""

    lab: settings.Lab
    source: Path  # where the submissions are
    out: Path
    work: Path  # for what is unpacked; the caller removes it
    kit: str  # the version of the graders
    jobs: int  # submissions side by side
    limit: float  # seconds for each
    services: str = "auto"
    patience: float = 1.0

    def folder(self, student: str) -> Path:
        """Where the results of a student are."""
        return self.out / STUDENTS / student


@dataclass
class Class_:
    """A run under way. The callbacks come from its threads, one at a time."""

    plan: Plan
    entries: Sequence[Entry]
    on_begin: Callable[[Entry], None] = lambda _: None
    on_end: Callable[[Record, bool], None] = lambda *_: None  # with whether it was kept
    on_ready: Callable[[list[str]], None] = lambda _: None  # what the first lane's servers are
    records: dict[str, Record] = field(default_factory=dict)
    trouble: str = ""  # why the run could not go on
    stopping: bool = False

    def __post_init__(self) -> None:
        folders = {entry.student: self.plan.folder(entry.student) for entry in self.entries}
        # Under way when an earlier run was ended.
        self.suspects = [e for e in self.entries if records.is_begun(folders[e.student])]
        self._todo = deque(e for e in self.entries if e not in self.suspects)
        self._lanes: set[Lane] = set()
        self._lock = threading.Lock()
        self._ready = False
        self._at_work = 0  # lanes, also those that are just being started

    def run(self) -> None:
        """Grade all that is not graded yet; returns when that is done, or `stop` was called."""
        count = min(self.plan.jobs, len(self._todo))
        self._in_lanes(range(count))
        if self.suspects and not self.stopping:
            self._todo.extend(self.suspects)
            self._in_lanes([count])

    def _in_lanes(self, numbers: Sequence[int]) -> None:
        """Grade what there is to do, so many side by side."""
        self._at_work = len(numbers)
        with ThreadPoolExecutor(max(1, len(numbers)), thread_name_prefix="lane") as pool:
            lanes = []
            try:
                lanes += [pool.submit(self._lane, number) for number in numbers]
                # Not Thread.join: after a Ctrl-C in there (until Python 3.12) a thread is taken
                # for ended that is not. Short, so that Ctrl-C is heard.
                while wait(lanes, 0.2).not_done:
                    pass
            except BaseException:
                self.stop()
                wait(lanes)
                raise

    def stop(self) -> None:
        """End it soon. What is under way is given up, and not written."""
        self.stopping = True
        with self._lock:
            lanes = list(self._lanes)
        for lane in lanes:
            lane.stop()

    # One lane

    def _lane(self, number: int) -> None:
        slot = _Slot(self, number)
        try:
            while not self.stopping and (entry := self._next()) is not None:
                with self._lock:
                    self.on_begin(entry)
                record, kept = self._one(entry, slot)
                if record is None:
                    return
                with self._lock:
                    self.records[entry.student] = record
                    self.on_end(record, kept)
        except Trouble as error:
            self._give_up(str(error))
        except OSError as error:
            self._give_up(f"The results cannot be written: {error.strerror or error}.")
        except Exception as error:  # a fault of the kit's; said in a sentence, as all others
            self._give_up(f"The kit itself failed ({type(error).__name__}: {error}).")
        finally:
            self._leave_to_others(slot)
            slot.close()

    def _leave_to_others(self, slot: _Slot) -> None:
        """There is nothing left to begin: who is still at work may use what this lane has used."""
        with self._lock:
            self._at_work -= 1
            slot.leave(self._lanes)
            for lane in self._lanes:
                lane.share(self.share())

    def _next(self) -> Entry | None:
        with self._lock:
            return self._todo.popleft() if self._todo else None

    def _give_up(self, why: str) -> None:
        with self._lock:
            self.trouble = self.trouble or why
        self.stop()

    def _one(self, entry: Entry, slot: _Slot) -> tuple[Record | None, bool]:
        """Grade one, or find that it is graded; None if the run was stopped meanwhile."""
        plan = self.plan
        # In a folder of its own: a student may be called as anything that lies in `work`.
        to, unpacked = plan.folder(entry.student), plan.work / UNPACKED / entry.student
        remarks = list(entry.remarks)
        times, begun, done = 0, False, False
        folder, problem, by_author = opened(entry, unpacked, plan.lab.number, remarks)
        try:
            record = Record(
                student=entry.student, name=entry.name, file=called(entry, plan.source),
                late=entry.late, submission=records.contents(folder) if folder else problem,
                kit=plan.kit, lab=plan.lab.name, minutes=0.0, problem=problem,
                opened=not by_author, remarks=tuple(remarks), id=entry.id,
            )
            old = records.load(to)
            if old is not None and old.same(record.submission, record.kit, record.lab):
                done = True
                # The platform may tell more of it by now than it did.
                return _kept(old, record, to), True
            if old is not None:
                records.doubt(old, to)  # should this run be stopped, it is what is known
            else:
                records.forget(to)
            began = time.monotonic()
            if folder is not None:
                record = replace(record, answers=papers.keep(folder, to))
                times = records.begun(to, record.submission)
                if times < RUNS:
                    with contextlib.suppress(LaneGone):  # the first start is nobody's time
                        slot.lane()
                    records.begin(to, record.submission, times + 1)
                    begun = True
                    began = time.monotonic()
                    problem = self._graded(record, folder, to, slot)
                else:
                    problem = ENDS_RUNS.format(times, entry.student)
                if problem is None:
                    return None, False
            if problem:
                for old in records.written(to):
                    old.unlink(missing_ok=True)
                if folder is None:
                    (to / papers.NAME).unlink(missing_ok=True)  # of an earlier submission
                feedback.write(to, [*_head(record), "", f"It was not graded. {problem}"], None)
            minutes = (time.monotonic() - began) / 60
            record = replace(record, problem=problem, minutes=round(minutes, 2))
            records.save(record, to)
            done = True
            return record, False
        finally:
            with contextlib.suppress(OSError):
                if done:
                    records.ended(to)
                elif begun:  # stopped in order, which may be its doing, too
                    records.begin(to, record.submission, max(1, times))
            shutil.rmtree(unpacked, ignore_errors=True)

    def _graded(self, record: Record, folder: Path, to: Path, slot: _Slot) -> str | None:
        """Grade a folder in this lane: why that could not be done, or ""; None when stopped."""
        # A lane runs in the kit's own folder, wherever this process does.
        order = Order(
            str(folder.absolute()), str(to.absolute()), tuple(_head(record)), self.plan.limit
        )
        for number in range(1, TRIES + 1):
            try:
                slot.lane().grade(order)
                return "" if not self.stopping else None
            except LaneGone as error:
                if self.stopping:
                    return None
                often = "" if number == 1 else f"{number} times "
                said = f"Its grader was ended {often}while it ran: {error}."
                slot.drop()
                if isinstance(error, LaneHangs):
                    break  # it has used up all of its time
        return said

    def share(self) -> float:
        """How many cores each of those that are at work may keep busy."""
        return settings.cores() / max(1, self._at_work)

    def _started(self, lane: Lane) -> None:
        with self._lock:
            self._lanes.add(lane)
            lane.share(self.share())  # which may have grown meanwhile
            if self.stopping:
                lane.stop()

    def _told(self, notes: list[str]) -> None:
        with self._lock:
            first, self._ready = not self._ready, True
            if first:
                self.on_ready(notes)

    def _ended(self, lane: Lane) -> None:
        with self._lock:
            self._lanes.discard(lane)


@dataclass
class _Slot:
    """The place of a lane: it is started when there is something to grade, and again if it ends."""

    run: Class_
    number: int
    _lane: Lane | None = None
    _count: int = 0

    def lane(self) -> Lane:
        """The lane, ready for an order. Raises Trouble, LaneGone."""
        if self._lane is None:
            plan = self.run.plan
            self._count += 1
            log = plan.work / f"lane-{self.number}-{self._count}.log"
            lane = Lane(plan.lab, plan.services, self.run.share(), log, plan.patience)
            self._lane = lane
            self.run._started(lane)
            try:
                self.run._told(lane.start())
            except LaneGone:
                words = lane.last_words()
                if self.run.stopping:
                    raise
                raise Trouble(f"A grader cannot be started{f': {words}' if words else '.'}") \
                    from None
        return self._lane

    def leave(self, lanes: set[Lane]) -> None:
        """Its lane is none of those any more that are at work."""
        if self._lane is not None:
            lanes.discard(self._lane)

    def drop(self) -> None:
        """End the lane by force; the next order gets a new one."""
        if self._lane is not None:
            self._lane.kill()
            self.run._ended(self._lane)
            self._lane = None

    def close(self) -> None:
        """No more orders: let it end, and wait for that."""
        if self._lane is not None:
            self._lane.wait()
            self.run._ended(self._lane)
            self._lane = None


def opened(
    entry: Entry, to: Path, lab: str, remarks: list[str]
) -> tuple[Path | None, str, bool]:
    """The folder to grade; or None, why there is none, and whether that is its author's fault.

    Raises Trouble where it is this machine's.
    """
    try:
        folder = layouts.prepare(entry, to, lab, remarks)
        if not os.access(folder, os.R_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return folder, "", False
    except ArchiveError as error:
        return None, error.message, True
    except OSError as error:
        if error.errno in OWN_TROUBLE:
            raise Trouble(f"The submissions cannot be opened: {error.strerror}.") from None
        return None, f"It cannot be read: {error.strerror or error}.", False


def _kept(old: Record, record: Record, to: Path) -> Record:
    """What an earlier run has kept, with what is known of the student now."""
    now = replace(old, name=record.name, file=record.file, late=record.late,
                  remarks=record.remarks, id=record.id)
    if now != old:
        records.save(now, to)
    return now


def called(entry: Entry, source: Path) -> str:
    """The file or folder of a submission, as it is called inside the class's folder."""
    if entry.loose:
        return f"{len(entry.loose)} single files"
    inside = entry.path.name
    with contextlib.suppress(ValueError):
        inside = entry.path.relative_to(source).as_posix()
    return shown(source.name if inside == "." else inside)


def _head(record: Record) -> list[str]:
    """What stands above a student's feedback."""
    return [
        f"{record.name}: {record.lab}, {record.file}",
        f"Graded by Worker Labs {record.kit}.",
        *record.remarks,
    ]
