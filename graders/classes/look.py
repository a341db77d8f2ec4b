"""`make grade-all … LOOK=1`: what would be graded, and whose it is, before anything is.

Nothing is started and nothing is written. Who has handed in the same files as somebody else, or the
starter as it came, is told as well.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from graders.classes import records
from graders.classes.archives import shown
from graders.classes.layouts import INSIDE, Entry
from graders.classes.progress import NAMES, WIDTH
from graders.classes.runner import UNPACKED, Plan, called, opened
from graders.harness.report.text import clean, cut, pad, wrap
from graders.harness.reset import original_of, write_files
from graders.harness.submission import PROCFILE


@dataclass(frozen=True)
class Looked:
    """What one has handed in."""

    entry: Entry
    file: str
    folder: str = ""  # inside it: the one with the Procfile
    contents: str = ""
    problem: str = ""
    remarks: tuple[str, ...] = ()


def look(plan: Plan, entries: Sequence[Entry]) -> Iterator[str]:
    """Lines to be shown, one student after the other. Raises Trouble."""
    starter = _starter(plan)
    every = []
    for entry in entries:
        looked = _look(plan, entry)
        every.append(looked)
        yield from _lines(looked)
    yield ""
    same = Counter(each.contents for each in every if each.contents)
    for contents, count in same.items():
        names = ", ".join(shown(e.entry.name) for e in every if e.contents == contents)
        if contents == starter:
            yield from wrap(f"The starter as it came: {names}.", WIDTH)
        elif count > 1:
            yield from wrap(f"The same files: {names}.", WIDTH)
    problems = sum(bool(each.problem) for each in every)
    without = sum(not each.problem and not each.folder for each in every)
    told = [f"{len(every)} submission{'' if len(every) == 1 else 's'}"]
    if problems:
        told.append(f"{problems} that cannot be opened")
    if without:
        told.append(f"{without} without a Procfile")
    yield from wrap(f"{', '.join(told)}. Nothing was graded; without LOOK it is.", WIDTH)


def _look(plan: Plan, entry: Entry) -> Looked:
    to = plan.work / UNPACKED / entry.student
    remarks = list(entry.remarks)
    file = called(entry, plan.source)
    try:
        folder, problem, _ = opened(entry, to, plan.lab.number, remarks)
        if folder is None:
            return Looked(entry, file, problem=problem, remarks=tuple(remarks))
        inside = ""
        if (folder / PROCFILE).is_file():
            # A remark names the archive that lay in another one.
            top = next((t for t in (to / INSIDE, to) if folder.is_relative_to(t)), entry.path)
            within = folder.relative_to(top).as_posix()
            inside = "the top" if within == "." else f"{within}/"
        return Looked(entry, file, inside, records.contents(folder), remarks=tuple(remarks))
    finally:
        shutil.rmtree(to, ignore_errors=True)


def _lines(looked: Looked) -> Iterator[str]:
    entry = looked.entry
    name = clean(entry.name) + (f" ({clean(entry.id)})" if entry.id else "")
    late = ", late" if entry.late else ""
    if looked.problem:
        what = looked.problem
    elif looked.folder and entry.loose:
        what = f"{looked.file}{late}"
    elif looked.folder:
        what = f"{shown(looked.folder)} of {looked.file}{late}"
    else:
        what = f"{looked.file}{late}: there is no Procfile in it"
    for number, line in enumerate(wrap(clean(what), WIDTH - NAMES - 2)):
        yield f"{pad(cut(name, NAMES) if not number else '', NAMES)}  {line}"
    for remark in looked.remarks:
        for line in wrap(clean(remark), WIDTH - NAMES - 4):
            yield f"{' ' * NAMES}    {line}"


def _starter(plan: Plan) -> str:
    """The contents of the starter as it came."""
    folder = plan.work / "starter"
    write_files(original_of(plan.lab), folder)
    try:
        return records.contents(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
