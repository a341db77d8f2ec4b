"""The students' answers beside the reference answers: one page per question, to mark by hand.

The pages are text and a style sheet, nothing else: no script, no link but to each other, nothing is
loaded. A student's words are escaped and shown as they are written, so that Markdown and HTML of
theirs stay text. Marks are written into a table beside the pages, which is only ever added to.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from graders.classes import marks, papers, questions
from graders.classes.archives import shown
from graders.classes.questions import Matched, Part, Question
from graders.harness import reset, settings
from graders.harness.report import json_report, svg_style
from graders.harness.report.text import clean, width_of
from graders.harness.settings import SettingError

INDEX, UNMATCHED = "index.html", "not-matched.html"
MOST_NAME = 80  # characters of a name
LONG, LONG_LINES = 8000, 150  # characters and lines of an answer that gets a scroll bar

_NO_CHARACTERS = {0xFFFE: "\\ufffe", 0xFFFF: "\\uffff"}
_ITEM = re.compile(r"\s*(?:[-*+•>#|]|\d{1,3}[.)]|\(?[a-z]\))")
_CODE_SPAN = re.compile(r"`([^`]+)`")


@dataclass(frozen=True)
class Answered:
    """A student whose answers are to be marked."""

    student: str  # as in file names
    name: str  # to be shown
    folder: Path | None  # the one with ANSWERS.md; None if nothing could be opened
    note: str = ""  # one sentence, shown if there is nothing to read


@dataclass(frozen=True)
class _Student:
    id: str
    name: str
    place: str  # the anchor on each page
    remarks: tuple[str, ...]
    found: Matched


def write(
    lab: settings.Lab, reference: Path, students: Sequence[Answered], out: Path
) -> list[Path]:
    """Write the pages and the table for marks into the folder `out`; their paths.

    A table that is there is kept: students and questions it lacks are added. Raises SettingError
    when something cannot be written.
    """
    of = questions.sheet(reset.original_of(lab).get(papers.NAME, ""))
    right = questions.match(papers.read_reference(reference).text, of)
    there = reference.is_file()
    known = sorted(students, key=lambda s: (_sorted_by(s.name), s.student))
    read = [_read(each, f"s{i}", of) for i, each in enumerate(known, 1)]
    try:
        table, told = marks.write(out, [(s.id, s.name) for s in read], of.questions)
        pages = {INDEX: _index(lab, of.questions, read, told, there)}
        for i, question in enumerate(of.questions):
            near = (of.questions[i - 1] if i else None, *of.questions[i + 1 : i + 2])
            answer = right.answers.get(question.number, ())
            pages[page_name(question)] = _question(lab, question, near, answer, there, read)
        pages[UNMATCHED] = _unmatched(lab, read)
        return [*(json_report.write_text(out / n, text) for n, text in pages.items()), table]
    except OSError as error:
        raise SettingError(f"The answers cannot be written: {error.strerror}.") from None


def page_name(question: Question) -> str:
    """The file of a question's page."""
    return f"question-{question.number:02d}.html"


def _read(student: Answered, place: str, of: questions.Sheet) -> _Student:
    name = clean(shown(student.name, MOST_NAME)).strip() or student.student
    note = clean(student.note).strip()
    if student.folder is None:
        return _Student(student.student, name, place, (note or "Nothing is there.",), Matched())
    paper = papers.read(student.folder)
    remarks = paper.remarks
    if note and not paper.text:  # the note says why
        remarks = (note, *(remark for remark in remarks if remark != papers.MISSING))
    return _Student(student.student, name, place, remarks, questions.match(paper.text, of))


def _sorted_by(name: str) -> str:
    """A key by which Ä stands beside A."""
    plain = unicodedata.normalize("NFKD", name.casefold())
    return "".join(c for c in plain if unicodedata.category(c) != "Mn")


# The pages


def _index(
    lab: settings.Lab,
    asked: Sequence[Question],
    students: list[_Student],
    told: str,
    reference: bool,
) -> str:
    rows = []
    for question in asked:
        n = sum(question.number in s.found.answers for s in students)
        link = f'<a href="{page_name(question)}">{question.number}. {_line(question.title)}</a>'
        rows.append(f"<tr><th scope=row>{link}</th><td>{n} of {len(students)}</td></tr>")
    loose = sum(bool(s.found.loose) for s in students)
    remarks = [(s, remark) for s in students for remark in s.remarks]
    body = [f"<h1>{_lab(lab)}: the answers</h1>"]
    if not asked:
        body.append("<p>This lab asks no questions.</p>")
    else:
        body.append(
            "<table><thead><tr><th scope=col>Question</th><th scope=col>Answered by</th></tr>"
            f"</thead><tbody>{''.join(rows)}</tbody></table>"
        )
    where = f'<a href="{UNMATCHED}">Not matched</a>'
    body.append(
        f"<p>{where}: {_count(loose, 'student has', 'students have')} written what belongs to none "
        "of these questions, or to one that cannot be told by its heading.</p>"
        if loose
        else f"<p>{where}: nothing; whatever was written belongs to one of these questions.</p>"
    )
    if not reference:
        body.append("<p>There are no reference answers to show beside them.</p>")
    body.append(f"<h2>Marks</h2><p>{_line(told)}</p>")
    if remarks:
        items = "".join(
            f"<li><bdi>{_line(student.name)}</bdi>: {_line(remark)}</li>"
            for student, remark in remarks
        )
        body.append(f"<h2>To know</h2><ul>{items}</ul>")
    return _page(f"{_lab(lab)}: the answers", f"<main>{''.join(body)}</main>")


def _question(
    lab: settings.Lab,
    question: Question,
    near: Sequence[Question | None],
    right: tuple[Part, ...],
    reference: bool,
    students: list[_Student],
) -> str:
    title = f"{question.number}. {_line(question.title)}"
    text = _CODE_SPAN.sub(r"<code>\1</code>", _line(question.text))
    if right:
        shown_right = "".join(_part(part) for part in right)
    else:
        what = "has none to this question" if reference else "is not there"
        shown_right = f"<p class=quiet>The file of the reference answers {what}.</p>"
    n = sum(question.number in s.found.answers for s in students)
    blocks = "".join(_block(question, s) for s in students)
    blocks = blocks or "<p class=quiet>There are no students.</p>"
    return _page(
        f"{_lab(lab)}, question {question.number}: {question.title}",
        '<a class=skip href="#answers">To the answers</a>'
        f"<header>{_nav(near)}<p class=quiet>{_lab(lab)}</p>"
        f"<h1>{title}</h1><p class=asked>{text}</p></header>"
        "<main class=columns>"
        "<section class=right aria-labelledby=reference tabindex=0>"
        f"<h2 id=reference>Reference answer</h2>{shown_right}</section>"
        "<section class=answers aria-labelledby=answers>"
        "<h2 id=answers>Students’ answers "
        f"<span class=quiet>{n or 'none'} of {len(students)}</span></h2>"
        f"{blocks}</section></main>",
    )


def _block(question: Question, student: _Student) -> str:
    """What one student has answered to a question."""
    parts = student.found.answers.get(question.number, ())
    body = [_part(part) for part in parts] or ["<p class=none>No answer.</p>"]
    body += [f"<p class=note>{_line(remark)}</p>" for remark in student.remarks]
    link = f'<a href="{UNMATCHED}#{student.place}">'
    if not parts and student.found.loose:
        body.append(f"<p class=note>Some of the file {link}matches no question</a>.</p>")
    elif any(loose.after == question.number for loose in student.found.loose):
        body.append(f"<p class=note>What follows in the file {link}matches no question</a>.</p>")
    return _article(student, "".join(body), "" if parts else "empty")


def _unmatched(lab: settings.Lab, students: list[_Student]) -> str:
    blocks = []
    for student in students:
        body = []
        for loose in student.found.loose:
            after = f"after question {loose.after}" if loose.after else "before any question"
            body.append(f"<p class=note>Stands {after}.</p>{_part(loose)}")
        if body:
            body = [*(f"<p class=note>{_line(r)}</p>" for r in student.remarks), *body]
            blocks.append(_article(student, "".join(body)))
    nothing = "<p>Nothing: whatever was written belongs to a question.</p>"
    return _page(
        f"{_lab(lab)}: answers not matched",
        f"<header>{_nav(())}<p class=quiet>{_lab(lab)}</p><h1>Not matched</h1>"
        "<p class=asked>What students have written under no question’s heading, or under one that "
        "cannot be told.</p></header>"
        f"<main class=answers>{''.join(blocks) or nothing}</main>",
    )


def _nav(near: Sequence[Question | None]) -> str:
    links = [f'<a href="{INDEX}">All questions</a>']
    for question, which in zip(near, ("Previous", "Next"), strict=False):
        if question:
            links.append(f'<a href="{page_name(question)}">{which}: {question.number}</a>')
    return f"<nav aria-label=Questions>{' '.join(links)}</nav>"


def _article(student: _Student, body: str, kind: str = "") -> str:
    about = f"class={kind} " if kind else ""
    return (
        f"<article {about}id={student.place} aria-labelledby={student.place}n>"
        f"<h3 id={student.place}n><bdi>{_line(student.name)}</bdi></h3>{body}"
        "<p class=marks>Points: <span></span> Remark: <span></span></p></article>"
    )


def _page(title: str, body: str) -> str:
    """A whole page. Its policy allows one style sheet, known by its hash, and nothing else."""
    digest = base64.b64encode(hashlib.sha256(_CSS.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    return (
        "<!doctype html>\n<html lang=en><head><meta charset=utf-8>"
        f'<meta http-equiv=Content-Security-Policy content="{policy}">'
        '<meta name=viewport content="width=device-width, initial-scale=1">'
        "<meta name=referrer content=no-referrer>"
        '<meta name="color-scheme" content="light dark">'
        f"<title>{_line(title)}</title><style>{_CSS}</style></head>\n<body>{body}</body></html>\n"
    )


def _lab(lab: settings.Lab) -> str:
    return f"Lab {lab.number}"


def _count(n: int, one: str, many: str) -> str:
    return f"{n} {one if n == 1 else many}"


# What somebody has written


def _line(text: str) -> str:
    return html.escape(clean(text).translate(_NO_CHARACTERS))


def _text(text: str) -> str:
    lines = (clean(line) for line in text.split("\n"))
    return html.escape("\n".join(lines).translate(_NO_CHARACTERS))


def _part(part: Part) -> str:
    """A piece of an answer: paragraphs, and code and tables as they stand."""
    out = []
    if part.heading:
        out.append(f"<p class=heading dir=auto>{_text(part.heading)}</p>")
    for kind, block in blocks(part.text):
        if kind == "code":
            out.append(f"<pre dir=auto>{_text(block)}</pre>")
        else:
            out.append(f"<p dir=auto>{_text(block)}</p>")
    if len(part.text) > LONG or part.text.count("\n") > LONG_LINES:  # scrolls, also by keyboard
        about = 'class="text long" tabindex=0 role=group aria-label="A long answer"'
    else:
        about = "class=text"
    return f"<div {about}>{''.join(out)}</div>"


def blocks(text: str) -> list[tuple[str, str]]:
    """An answer as blocks: ("text", …) for paragraphs, ("code", …) for what keeps its columns.

    Only spaces and newlines differ from what was written.
    """
    found: list[tuple[str, str]] = []
    lines: list[str] = []
    fence = ""

    def end(kind: str) -> None:
        block = "\n".join(lines) if kind == "code" else _unwrapped(lines)
        if lines:
            found.append((kind, block))
        lines.clear()

    kind = "text"
    for line in text.split("\n"):
        if fence:
            lines.append(line)
            if line.strip().startswith(fence) and not line.strip().strip(fence[0]):
                fence = ""
                end("code")
                kind = "text"
            continue
        mark = re.match(r"\s{0,3}(`{3,}|~{3,})[^`]*$", line)
        new = "code" if mark or re.match(r"\s*\|", line) else "text"
        # Indented: code where it begins a block, or goes on in one.
        if re.match(r" {4}|\t", line) and line.strip() and bool(lines) == (kind == "code"):
            new = "code"
        if not line.strip() or new != kind or mark:
            end(kind)
            kind = new
        if mark:
            fence = mark[1]
        if line.strip():
            lines.append(line)
    end("code" if fence else kind)
    return found


def _unwrapped(lines: list[str]) -> str:
    """A paragraph whose lines were broken at a column: joined, since a page has another width.

    They were broken there if in no line the next one's first word would have had room. Items of a
    list stand each for itself.
    """
    items: list[list[str]] = []
    for line in lines:
        if not items or _ITEM.match(line):
            items.append([])
        items[-1].append(line)
    widest = max(map(width_of, lines), default=0)
    joined = []
    for item in items:
        words = [(line.split() or [""])[0] for line in item[1:]]
        room = max(widest, 60)
        wrapped = room <= 130 and all(
            width_of(line.rstrip()) + 1 + width_of(word) > room
            for line, word in zip(item, words, strict=False)
        )
        if wrapped:
            item = [item[0].rstrip(), *(line.strip() for line in item[1:])]
        joined.append((" " if wrapped else "\n").join(item))
    return "\n".join(joined)


def _css(light: Iterable[tuple[str, str]], dark: Iterable[tuple[str, str]]) -> str:
    names = ("ground", "text", "quiet", "line", "claim", "work", "broke")

    def variables(colours: Iterable[tuple[str, str]]) -> str:
        return " ".join(f"--{name}: {value};" for name, value in colours if name in names)

    return f"""
:root {{ {variables(light)} }}
@media screen and (prefers-color-scheme: dark) {{ :root {{ {variables(dark)} }} }}
* {{ box-sizing: border-box; }}
body {{ margin: 0 auto; max-width: 100rem; padding: 1rem 1.25rem 3rem; background: var(--ground);
  color: var(--text); font: 1.0625rem/1.5 system-ui, "Segoe UI", "Noto Sans", sans-serif;
  overflow-wrap: anywhere; }}
a {{ color: var(--work); }}
h1 {{ font-size: 1.7rem; line-height: 1.25; margin: 0.25rem 0 0.5rem; }}
h2 {{ font-size: 1.15rem; margin: 0 0 0.75rem; }}
h3 {{ font-size: 1.05rem; margin: 0 0 0.5rem; }}
p {{ margin: 0 0 0.75rem; }}
table {{ border-collapse: collapse; margin: 1rem 0; }}
th, td {{ text-align: start; padding: 0.4rem 1.5rem 0.4rem 0; font-weight: inherit;
  border-bottom: 1px solid var(--line); }}
thead th, td {{ white-space: nowrap; }}
thead th {{ color: var(--quiet); }}
nav a {{ margin-inline-end: 1.25rem; display: inline-block; padding: 0.2rem 0; }}
header > p {{ margin-bottom: 0; }}
header > .asked {{ max-width: 75rem; margin-bottom: 1.25rem; font-size: 1.15rem; }}
.quiet, .note {{ color: var(--quiet); }}
h2 .quiet {{ font-weight: 400; margin-inline-start: 0.5rem; }}
.note {{ font-size: 0.95rem; }}
.skip {{ position: absolute; left: -100rem; }}
.skip:focus {{ position: static; }}
.right {{ background: var(--claim); border-radius: 0.4rem; padding: 1rem 1.25rem 0.5rem;
  margin-bottom: 1.25rem; }}
article {{ border: 1px solid var(--line); border-radius: 0.4rem; margin-bottom: 1rem;
  padding: 0.75rem 1.25rem 0.25rem; }}
.empty {{ display: flex; flex-wrap: wrap; gap: 0 1.25rem; padding-bottom: 0.75rem; }}
.empty > * {{ margin-bottom: 0; }}
.none {{ font-weight: 700; color: var(--broke); }}
.text p, .text pre {{ white-space: pre-wrap; unicode-bidi: plaintext; }}
.text .heading {{ font-weight: 700; }}
pre, code {{ font-family: {svg_style.FONT}; font-size: 0.9em; }}
pre {{ margin: 0 0 0.75rem; padding-inline-start: 0.75rem;
  border-inline-start: 3px solid var(--line); line-height: 1.4; }}
.marks {{ display: none; }}
@media screen {{ .long {{ max-height: 40rem; overflow-y: auto; }} }}
@media screen and (min-width: 62rem) {{
  .columns {{ display: grid; grid-template-columns: minmax(0, 2fr) minmax(0, 3fr);
    gap: 1.5rem; align-items: start; }}
  .right {{ position: sticky; top: 1rem; max-height: calc(100vh - 2rem); overflow-y: auto; }}
}}
@page {{ margin: 15mm; }}
@media print {{
  body {{ font-size: 10.5pt; padding: 0; max-width: none; }}
  nav, .skip {{ display: none; }}
  .right {{ background: none; border: 1px solid var(--line); }}
  article {{ break-inside: avoid; }}
  h1, h2, h3 {{ break-after: avoid; }}
  .marks {{ display: flex; flex: 1 0 100%; gap: 0.5rem; margin: 0.5rem 0; }}
  .marks span {{ border-bottom: 1px solid var(--line); flex: 1; margin-inline-end: 1rem; }}
  .marks span + span {{ flex: 6; margin: 0; }}
}}
"""


_CSS = _css(svg_style.LIGHT.items(), svg_style.DARK.items())
