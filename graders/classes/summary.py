"""summary.md: what a class has done as a whole, and what to talk about in the next lesson."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from graders.classes.archives import shown
from graders.classes.layouts import student_id
from graders.classes.scores import GRADED, NOT_GRADED, PARTLY, Row
from graders.harness import settings
from graders.harness.check import CODES, Check
from graders.harness.report.json_report import write_text
from graders.harness.report.text import clean, unfold
from graders.harness.results import COULD_NOT_GRADE, FAILED, NOT_CHECKED

NAME = "summary.md"
MOST_TOPICS = 5
SHARE = 0.15  # of the class that has to fail a check before the class talks about it
BAR = 30  # characters of the longest bar


def write(rows: Sequence[Row], lab: settings.Lab, checks: Mapping[str, Check], kit: str,
          path: Path, remarks: Sequence[str] = (), changes: Sequence[str] = ()) -> Path:
    """Write the summary. `remarks` are those on the class's folder. Raises OSError.

    `changes`: what is different from the last run, as `changed` tells it.
    """
    return write_text(path, "\n".join(lines(rows, lab, checks, kit, remarks, changes)) + "\n")


def changed(earlier: Mapping[str, Row], rows: Sequence[Row]) -> list[str]:
    """Who has other points than in an earlier run: "Anna Lee 60, was 55"."""
    told = []
    for row in rows:
        before = earlier.get(row.record.student)
        if before is not None and _points_of(before) != _points_of(row):
            told.append(f"{_plain_name(row)} {_points_of(row)}, was {_points_of(before)}")
    return told


def lines(rows: Sequence[Row], lab: settings.Lab, checks: Mapping[str, Check], kit: str,
          remarks: Sequence[str] = (), changes: Sequence[str] = ()) -> Iterator[str]:
    """The lines of the summary, in Markdown that also reads well as it is."""
    graded = [row for row in rows if row.state != NOT_GRADED]
    yield f"# Lab {lab.number}, {lab.title}: {_many(len(rows), 'submission')}"
    yield ""
    yield f"Graded by Worker Labs {kit}. " + ", ".join(
        f"{n} {state}" for state in (GRADED, PARTLY, NOT_GRADED)
        if (n := sum(row.state == state for row in rows))
    ) + "."
    if graded:
        yield from _points(graded)
        yield from _checks(graded, checks)
        yield from _findings(graded)
        yield from _topics(graded, lab, checks)
    else:
        yield ""
    yield from _who(rows)
    for remark in dict.fromkeys(remarks):
        yield f"- {_md(remark)}"
    if changes:
        yield ""
        yield "## Other points than in the last run"
        yield ""
        for change in changes:
            yield f"- {_md(change)}"


def _points(graded: Sequence[Row]) -> Iterator[str]:
    """How the points are spread, in tenths of what could be had."""
    # Of whom only a part could be graded, that part says little.
    whole = [row for row in graded if row.state == GRADED and row.possible]
    shares = sorted(100 * row.points / row.possible for row in whole)
    if not shares:
        return
    apart = len(graded) - len(whole)
    yield ""
    yield "## Points"
    yield ""
    yield (f"Median {statistics.median(shares):.0f}, mean {statistics.fmean(shares):.0f}, from "
           f"{shares[0]:.0f} to {shares[-1]:.0f} (of 100)."
           + (f" The {apart} who could only be graded in part are not counted." if apart else ""))
    yield ""
    tenths = Counter(min(int(share // 10), 9) for share in shares)
    most = max(tenths.values())
    for tenth in range(9, -1, -1):
        upto = 100 if tenth == 9 else 10 * tenth + 9
        bar = "#" * round(BAR * tenths[tenth] / most)
        yield f"    {10 * tenth:3} to {upto:3}  {tenths[tenth]:3}  {bar}".rstrip()


def _checks(graded: Sequence[Row], checks: Mapping[str, Check]) -> Iterator[str]:
    """The checks, those first that fail most."""
    failed = Counter(c["name"] for row in graded for c in row.checks if c["verdict"] == FAILED)
    waited = Counter(c["name"] for row in graded for c in row.checks
                     if c["verdict"] == NOT_CHECKED)
    unknown = Counter(c["name"] for row in graded for c in row.checks
                      if c["verdict"] == COULD_NOT_GRADE)
    yield ""
    yield "## Which checks fail most"
    yield ""
    if not failed:
        yield ("None of those that could be graded." if unknown else
               "None: whoever was graded passes all of them.")
        return
    yield "| check | failed | not checked | passed | points |"
    yield "|---|---:|---:|---:|---:|"
    order = {name: n for n, name in enumerate(checks)}
    for name, times in sorted(failed.items(), key=lambda e: (-e[1], order.get(e[0], 0))):
        passed = len(graded) - times - waited[name] - unknown[name]
        check = checks.get(name)
        points = check.points if check else ""
        yield f"| {name} | {times} | {waited[name]} | {passed} | {points} |"
    yield ""
    yield "Not checked: what comes before it has failed, and is counted there."


def _findings(graded: Sequence[Row]) -> Iterator[str]:
    """What was found, and with how many students."""
    seen = Counter(code for row in graded for code in row.findings)
    if not seen:
        return
    yield ""
    yield "## Which findings are common"
    yield ""
    yield "| finding | students | what it says |"
    yield "|---|---:|---|"
    for code, times in sorted(seen.items(), key=lambda e: (-e[1], e[0])):
        yield f"| {code} | {times} | {CODES.get(code, '')} |"


def _topics(graded: Sequence[Row], lab: settings.Lab, checks: Mapping[str, Check]) -> Iterator[str]:
    """What to talk about: the checks that many have failed, with what was seen, nobody named."""
    failures: dict[str, list[dict]] = {}
    for row in graded:
        for check in row.checks:
            if check["verdict"] == FAILED and check["finding"]:
                failures.setdefault(check["name"], []).append(check["finding"])
    many = max(2, SHARE * len(graded))
    topics = [(n, f) for n, f in failures.items() if len(f) >= many and n in checks]
    topics.sort(key=lambda topic: -len(topic[1]))
    yield ""
    yield "## What to talk about in the next lesson"
    yield ""
    if not topics:
        yield "No check was failed by many: what was missed is in each student's own feedback."
        yield ""
        return
    if len(topics) > MOST_TOPICS:
        yield f"{len(topics)} checks were failed by many; these {MOST_TOPICS} by most."
        yield ""
    for number, (name, found) in enumerate(topics[:MOST_TOPICS], 1):
        check = checks[name]
        code, times = Counter(f["code"] for f in found).most_common(1)[0]
        example = next(f for f in found if f["code"] == code)
        yield f"{number}. **{check.title}** ({name}, {len(found)} of {len(graded)})"
        yield ""
        for paragraph in unfold(check.why).split("\n"):
            if paragraph:
                yield f"   {_md(paragraph)}"
                yield ""
        said = "" if times == len(found) else f", {times} of {len(found)}"
        yield f"   Seen most{said}: {CODES.get(code, code).rstrip('.')} (`{code}`). One of them:"
        yield f"   “{_md(_short(example['seen']))}”"
        yield ""
        asked = f"make hint LAB={lab.number} CHECK={name}"
        target = "explore" if check.explores else "grade"
        yield "   To show it done right, and a hint that leads there:"
        yield ""
        yield f"       make {target} LAB={lab.number} SRC=solutions/{lab.name} CHECK={name}"
        yield f"       {asked}"
        yield ""


def _who(rows: Sequence[Row]) -> Iterator[str]:
    """Whom to speak to."""
    stuck = [r for r in rows if r.state == GRADED and not r.points]
    full = [r for r in rows if r.state == GRADED and r.points == r.possible]
    partly = [row for row in rows if row.state == PARTLY]
    absent = [row for row in rows if row.state == NOT_GRADED]
    late = [row for row in rows if row.record.late]
    yield "## Who"
    yield ""
    if full:
        yield f"- Full marks: {_names(full)}."
    for row in stuck:
        first = next((c for c in row.checks if c["verdict"] == FAILED), None)
        code = f", {first['finding']['code']}" if first and first["finding"] else ""
        where = f" ({first['name']}{code})" if first else ""
        yield f"- No points yet: {_name(row)}{where}."
    for row in partly:
        yield f"- Partly graded: {_name(row)}. {_md(row.why_not)}"
    for row in absent:
        yield f"- Not graded: {_name(row)}. {_md(row.why_not)}"
    if late:
        yield f"- Late: {_names(late)}."


def _points_of(row: Row) -> str:
    """Its points, and of how many where that is not all of them; "not graded" for none."""
    if row.points is None:
        return NOT_GRADED
    return str(row.points) if row.state == GRADED else f"{row.points} of {row.possible}"


def _name(row: Row) -> str:
    return _md(_plain_name(row))


def _plain_name(row: Row) -> str:
    name = shown(row.record.name, 60)
    # The id is told where it does not follow from the name: of two with the same one.
    same = student_id(row.record.name) == row.record.student
    return name if same else f"{name} ({row.record.student})"


def _names(rows: Sequence[Row]) -> str:
    return ", ".join(_name(row) for row in rows)


def _many(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"


def _short(text: str, most: int = 300) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def _md(text: str) -> str:
    """A stranger's text, with nothing in it that Markdown or a terminal would act on."""
    text = clean(" ".join(text.split()))
    for char in "\\`*_[]<>|":
        text = text.replace(char, "\\" + char)
    return text
