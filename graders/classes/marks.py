"""The table into which somebody writes marks by hand.

It is only ever added to: whatever is in it stays, also after a spreadsheet has saved it with other
delimiters and another encoding. One that cannot be understood is not touched.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path

from graders.classes.papers import decoded
from graders.classes.questions import Question
from graders.harness.report import json_report
from graders.harness.report.text import clean

NAME, OTHER_NAME = "marks.csv", "marks-new.csv"


def write(
    out: Path, students: list[tuple[str, str]], asked: Sequence[Question]
) -> tuple[Path, str]:
    """The table of marks, new or added to; its path, and what is to be said of it."""
    path = out / NAME
    columns = [f"Q{q.number}" for q in asked]
    kept = _kept(path)
    if kept is None and (path.exists() or path.is_symlink()):
        path = out / OTHER_NAME
        kept = _kept(path)
        if kept is None and (path.exists() or path.is_symlink()):
            return path, (
                f"{NAME} and {path.name} are left as they are: neither can be read as a table "
                "whose first column is called “student”."
            )
        told = (
            f"{NAME} is left as it is, for it cannot be read as a table whose first column is "
            f"called “student”; {path.name} is one to fill in."
        )
    else:
        told = (
            f"{NAME} beside this page has a row for each student and a column for each question, "
            "to be filled in. When the class is graded again, rows are added to it, and what you "
            "have written stays."
        )
    table, delimiter = kept or ([["student", "name", *columns]], ",")
    changed = kept is None
    names = [cell.strip().casefold() for cell in table[0]]
    missing = [column for column in columns if column.casefold() not in names]
    if missing:
        changed = True
        width = max(map(len, table))
        table[0] += [""] * (width - len(table[0])) + missing
    have = {row[0].strip() for row in table[1:] if row}
    for student, name in students:
        cell = guarded(student)
        if cell in have or student in have:
            continue
        changed = True
        row = [cell] + [""] * (len(names) - 1)
        if "name" in names:
            row[names.index("name")] = guarded(name)
        table.append(row)
    if changed:
        width = max(map(len, table))
        lines = io.StringIO()
        writer = csv.writer(lines, delimiter=delimiter, lineterminator="\r\n")
        writer.writerows([*row, *[""] * (width - len(row))] for row in table)
        json_report.write_text(path, "\ufeff" + lines.getvalue())
    return path, told


def _kept(path: Path) -> tuple[list[list[str]], str] | None:
    """A table that is there and its delimiter, in what spreadsheets make of it; else None."""
    if not path.is_file():
        return None
    text, _ = decoded(path.read_bytes())
    first = text.split("\n", 1)[0].strip().replace('"', "").casefold()
    delimiter = first[len("student") : len("student") + 1]
    if not first.startswith("student") or delimiter not in (",", ";", "\t"):
        return None
    try:
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        table = list(rows)
    except csv.Error:
        return None
    while not any(table[-1]):
        table.pop()
    return table, delimiter


def guarded(text: str) -> str:
    """A cell that no spreadsheet takes for a formula, wherever it may think that a cell begins."""
    text = clean(text)
    return re.sub(r"(^\s*|[;,\t|\"]\s*)(?=[=+\-@＝＋－＠])", r"\1'", text) if text else text
