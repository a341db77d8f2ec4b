"""scores.csv: one line per student, with each check, for a spreadsheet or a gradebook."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graders.classes.marks import guarded
from graders.classes.records import OF_CHECK, Record, results_of
from graders.harness.report.json_report import write_text
from graders.harness.results import COULD_NOT_GRADE, FAILED, NOT_CHECKED, PASSED, VERDICTS

NAME = "scores.csv"
# In the place of points: what could not be graded is no zero, what was not checked no failure.
MARKS = {COULD_NOT_GRADE: "?", NOT_CHECKED: "-"}

KEPT = (*OF_CHECK, "finding")
GRADED, PARTLY, NOT_GRADED = "graded", "partly graded", "not graded"


@dataclass(frozen=True)
class Row:
    """What came of one student's submission."""

    record: Record
    checks: tuple[dict[str, Any], ...] = ()  # as in results.json, of which KEPT

    @classmethod
    def of(cls, record: Record, folder: Path) -> Row:
        """The row of a record whose results are in this folder."""
        told = None if record.problem else results_of(folder)
        checks = told["checks"] if told else ()
        # Without the timelines: a large class has thousands of them.
        return cls(record, tuple({name: check[name] for name in KEPT} for check in checks))

    @property
    def state(self) -> str:
        """Graded, partly graded, or not graded."""
        ungraded = self.count(COULD_NOT_GRADE)
        if ungraded == len(self.checks):  # also where there are none
            return NOT_GRADED
        return PARTLY if ungraded else GRADED

    @property
    def is_open(self) -> bool:
        """Whether something could not be graded for no fault of its author's."""
        return self.state != GRADED and self.record.opened

    @property
    def why_not(self) -> str:
        """Why something of it could not be graded, in one sentence; "" if all could."""
        reasons = (c["reason"] for c in self.checks if c["verdict"] == COULD_NOT_GRADE)
        return self.record.problem or next(reasons, "")

    @property
    def points(self) -> int | None:
        """Points earned; None if nothing was graded."""
        return sum(c["earned"] for c in self.checks) if self.state != NOT_GRADED else None

    @property
    def possible(self) -> int | None:
        """Points that could be earned: not those of checks that could not be graded."""
        if self.state == NOT_GRADED:
            return None
        return sum(c["points"] for c in self.checks if c["verdict"] != COULD_NOT_GRADE)

    def count(self, verdict: str) -> int:
        """How many checks had this verdict."""
        return Counter(check["verdict"] for check in self.checks)[verdict]

    @property
    def findings(self) -> list[str]:
        """The codes of what was found, those of the first failed checks first, each once."""
        found = (check["finding"] for check in self.checks if check["verdict"] == FAILED)
        return list(dict.fromkeys(each["code"] for each in found if each))


def write(rows: Sequence[Row], checks: Iterable[str], path: Path) -> Path:
    """Write the table. Raises OSError."""
    return write_text(path, table(rows, list(checks)))


def table(rows: Sequence[Row], checks: Sequence[str]) -> str:
    """The table as CSV (RFC 4180), with a byte order mark, by which spreadsheets know UTF-8."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow([
        "student", "name", "id", "file", "late", "state", "points", "of", *checks, "passed",
        "failed", "not checked", "could not grade", "findings", "minutes", "kit", "remarks",
    ])  # fmt: skip
    for row in rows:
        record = row.record
        by_name = {check["name"]: check for check in row.checks}
        writer.writerow([
            plain(record.student), plain(record.name), plain(record.id), plain(record.file),
            {True: "late", False: "", None: ""}[record.late],
            row.state,
            "" if row.points is None else row.points,
            "" if row.possible is None else row.possible,
            *(_cell(by_name.get(name)) for name in checks),
            *(row.count(v) if row.checks else "" for v in
              (PASSED, FAILED, NOT_CHECKED, COULD_NOT_GRADE)),
            " ".join(row.findings),
            f"{record.minutes:.1f}",
            record.kit,
            plain(" ".join(filter(None, (row.why_not, *record.remarks)))),
        ])  # fmt: skip
    return "\ufeff" + text.getvalue()


def _cell(check: dict[str, Any] | None) -> str:
    """A check's points, or why there are none."""
    if check is None or check["verdict"] not in VERDICTS:
        return ""
    return MARKS.get(check["verdict"], str(check["earned"]))


def plain(text: str) -> str:
    """A text on one line that no spreadsheet takes for a formula."""
    return guarded(" ".join(text.split()))
