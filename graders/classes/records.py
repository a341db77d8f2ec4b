"""What is kept of each graded submission, so that a run goes on where an earlier one was stopped.

`graded.json` lies beside a student's results and is written last: a folder without it was not
finished. It says which submission was graded, by the contents of its files, and by which kit; if
either is another now, the submission is graded again, and for no other reason.

While it is graded, a file says so. Where it is found later, the whole run was ended meanwhile: by
chance, by whoever stopped it, or by what the submission does.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from graders.harness.report.json_report import write_text
from graders.harness.submission import LEFT_OUT, MAX_BYTES, MAX_FILES

NAME = "graded.json"
BEGUN = "begun"
RESULTS = "results.json"
# What is read of each check in results.json, and of what it has found.
OF_CHECK = {"name": str, "verdict": str, "points": int, "earned": int, "reason": str}
OF_FINDING = {"code": str, "seen": str}


@dataclass(frozen=True)
class Record:
    """One student's submission, and how its grading ended."""

    student: str  # safe as a file's name
    name: str  # to be shown
    file: str  # what was graded, as it is called in the class's folder
    late: bool | None  # None if the platform does not say
    submission: str  # a hash of what is in it
    kit: str
    lab: str
    minutes: float  # that its grading took
    problem: str = ""  # why there is no result, in one sentence
    opened: bool = True  # else there was nothing to grade, and the problem is its author's
    remarks: tuple[str, ...] = ()
    answers: str = ""  # what is to be said of ANSWERS.md, in one sentence
    id: str = ""  # what the platform calls the student: a number, or an address

    def same(self, submission: str, kit: str, lab: str) -> bool:
        """Whether that is what was graded here, and by the same kit."""
        return (self.submission, self.kit, self.lab) == (submission, kit, lab)


def save(record: Record, folder: Path) -> None:
    """Write it beside the results. Raises OSError."""
    write_text(folder / NAME, json.dumps(asdict(record), indent=2, ensure_ascii=False) + "\n")


def load(folder: Path) -> Record | None:
    """What was kept here; None if nothing was, or nothing that can be read."""
    try:
        told = json.loads((folder / NAME).read_text(encoding="utf-8"))
        record = Record(**{**told, "remarks": tuple(told.get("remarks", ()))})
    except (OSError, ValueError, TypeError, AttributeError):
        return None
    if not record.problem and results_of(folder) is None:
        return None
    return record


def doubt(record: Record, folder: Path) -> None:
    """It is to be graded again, and counts until that is done. Raises OSError."""
    save(replace(record, submission=""), folder)


def forget(folder: Path) -> None:
    """What lies here is about to be made anew. Raises OSError."""
    (folder / NAME).unlink(missing_ok=True)


def begin(folder: Path, submission: str, times: int) -> None:
    """This submission is being graded: should the run be killed now, it is that many times."""
    write_text(folder / BEGUN, f"{times} {submission}\n")


def is_begun(folder: Path) -> bool:
    """Whether a run was ended while something was graded into this folder."""
    return (folder / BEGUN).is_file()


def begun(folder: Path, submission: str) -> int:
    """How many runs were killed while they graded this submission; 0 for nearly all."""
    try:
        times, of = (folder / BEGUN).read_text(encoding="ascii").split()
        return int(times) if of == submission else 0
    except (OSError, ValueError):
        return 0


def ended(folder: Path) -> None:
    """Its grading was not the end of the run. Raises OSError."""
    (folder / BEGUN).unlink(missing_ok=True)


def results_of(folder: Path) -> dict[str, Any] | None:
    """The student's results.json; None if there is none that can be read."""
    try:
        told = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    checks = told.get("checks") if isinstance(told, dict) else None
    return told if isinstance(checks, list) and all(map(_is_check, checks)) else None


def _is_check(told: Any) -> bool:
    """Whether that is a check's result, as this kit writes them. Another version may not have."""
    if not _has(told, OF_CHECK) or "finding" not in told:
        return False
    return told["finding"] is None or _has(told["finding"], OF_FINDING)


def _has(told: Any, fields: Mapping[str, type]) -> bool:
    return isinstance(told, dict) and all(
        isinstance(told.get(name), kind) for name, kind in fields.items()
    )


def written(folder: Path) -> list[Path]:
    """What a grading has written here: its results, and its drawings."""
    return [*folder.glob(RESULTS), *folder.glob("*.svg")]


def contents(folder: Path) -> str:
    """A hash of all that a grading would copy: names, contents, links, and what may be run."""
    told = hashlib.sha256()
    left = MAX_BYTES  # a larger one is refused by its grading: names and sizes tell it apart
    files = 0
    for here, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in LEFT_OUT)
        links = [name for name in folders if os.path.islink(os.path.join(here, name))]
        for name in sorted([*names, *links]):
            files += 1
            if name in LEFT_OUT or files > MAX_FILES:
                continue
            path = Path(here, name)
            told.update(os.fsencode(path.relative_to(folder)) + b"\0")
            with contextlib.suppress(OSError):  # who cannot read it will not grade it either
                found = path.lstat()
                told.update(f"{stat.S_IFMT(found.st_mode)} {found.st_mode & 0o100}\0".encode())
                if stat.S_ISLNK(found.st_mode):
                    told.update(os.fsencode(os.readlink(path)) + b"\0")
                elif stat.S_ISREG(found.st_mode):
                    told.update(f"{found.st_size}\0".encode())
                    left -= found.st_size
                    if left >= 0:
                        with path.open("rb") as file:
                            told.update(hashlib.file_digest(file, "sha256").digest())
    return told.hexdigest()[:24]
