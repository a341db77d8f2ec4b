"""Which part of a student's ANSWERS.md answers which question.

Students rename and renumber headings, delete questions, and write all of it into one block. A
heading is matched by its number where its words agree, by its words where they name one question
and no other, and only then by its number alone. What belongs to no question is kept aside, and
nothing is thrown away but what the starter itself says.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass, field

MOST_HEADINGS = 2000  # of one file; what follows is text

_ATX = re.compile(r" {0,3}(#{1,6})[ \t]*(.*)")
_UNDERLINE = re.compile(r" {0,3}(?:=+|-{2,})[ \t]*")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})(.*)")
_PLACEHOLDER = re.compile(r"[_*\s>]*your answer\s*:?[_*\s]*", re.IGNORECASE)
_RULE = re.compile(r"\s*([-*_])(?:\s*\1){2,}\s*")
_BOLD = re.compile(r"\s*(\*\*|__)(.+)\1\s*:?\s*")
_NUMBERS = re.compile(
    r"(?:(?:my +)?answers?(?: +(?:to|for))? +)?(?P<word>(?:questions?|frage|q|no|nr) *\.? *)?"
    r"\(?(?P<numbers>\d{1,3}(?: *(?:[-–—,&+/]|and|to|und|bis) *\d{1,3}){0,30})"
    r"(?=[.):\s]|$)(?!\.\d)(?P<rest>.*)",
    re.IGNORECASE,
)
_SMALL = frozenset(("a", "an", "the", "of", "in", "is", "it", "and", "or", "at", "to"))

# How sure it is that a heading names a question. The surest of each question counts, no other.
_AGREES, _WORDS, _LINE, _NUMBER, _LINE_NUMBER = range(5)


@dataclass(frozen=True)
class Question:
    """One question of the starter."""

    number: int
    title: str
    text: str


@dataclass(frozen=True)
class Sheet:
    """ANSWERS.md as students get it."""

    questions: tuple[Question, ...]
    lines: frozenset[str]  # its own lines, with and without the mark of a quotation
    headings: tuple[str, ...]  # those that are no questions, as words


@dataclass(frozen=True)
class Part:
    """A piece of a student's file."""

    text: str
    heading: str = ""  # as the student wrote it, where it is not the starter's
    after: int | None = None  # of a loose part: the question it follows


@dataclass(frozen=True)
class Matched:
    """A student's file, taken apart."""

    answers: dict[int, tuple[Part, ...]] = field(default_factory=dict)
    loose: tuple[Part, ...] = ()  # what belongs to no question


# The starter


def sheet(text: str) -> Sheet:
    """The questions of a starter's ANSWERS.md: its headings that begin with a number."""
    questions, headings, below = [], [], []
    for line in reversed(text.splitlines()):
        found = _ATX.fullmatch(line)
        if not found:
            below.append(line)
            continue
        numbered = re.fullmatch(r"(\d+)\.\s+(.*\S)\s*", found[2])
        if numbered:
            quoted = (line[1:].strip() for line in reversed(below) if line.startswith(">"))
            questions.append(Question(int(numbered[1]), numbered[2], " ".join(quoted)))
        else:
            headings.append(_words(found[2]))
        below = []
    own = {line.strip() for line in text.splitlines() if line.strip()}
    own |= {line.lstrip("> ") for line in own}
    return Sheet(tuple(reversed(questions)), frozenset(own), tuple(h for h in headings if h))


# Matching


@dataclass(frozen=True)
class _Heading:
    line: int
    lines: int  # that it takes: 2 where it is underlined
    level: int  # 0 for a line that only looks like one
    text: str
    bold: bool = False


def match(text: str, of: Sheet) -> Matched:
    """Take a student's file apart."""
    lines = text.split("\n")
    headings = _headings(lines, of)
    claimed, level = _claims(headings, of)
    answers: dict[int, list[Part]] = {}
    loose: list[Part] = []
    numbers: tuple[int, ...] = ()
    last: int | None = None  # the question above
    begin, title, telling = 0, "", False

    def end(at: int) -> None:
        body = _without_starter(lines[begin:at], of)
        if not body and not telling:
            return
        for number in numbers:
            answers.setdefault(number, []).append(Part(body, title))
        if not numbers:
            loose.append(Part(body, title, last))

    for heading, after in itertools.pairwise([*headings, None]):
        raw = "\n".join(lines[heading.line : heading.line + heading.lines]).strip()
        if heading in claimed:
            end(heading.line)
            numbers, last = claimed[heading], claimed[heading][-1]
            title = "" if raw in of.lines else raw
            telling = _says_more(heading.text, numbers, of)
        elif heading.level and _words(heading.text).startswith(of.headings):
            end(heading.line)
            numbers, telling = (), _words(heading.text) not in of.headings
            title = raw if telling else ""
        elif (last and numbers and 0 < heading.level <= level) and (
            not _next_is_there(last, claimed, of)
            or (heading.level < level and after in claimed and _is_empty(lines, heading, after))
        ):
            end(heading.line)
            numbers, title, telling = (), raw, True
        else:
            continue
        begin = heading.line + heading.lines
    end(len(lines))
    return Matched({n: tuple(parts) for n, parts in answers.items()}, tuple(loose))


def _next_is_there(last: int, claimed: dict[_Heading, tuple[int, ...]], of: Sheet) -> bool:
    """Whether the question after this one has a heading of its own, if there is one.

    If it has, an unknown heading is a part of the answer: a headline of the student's own, or the
    comment of a shell. If not, it may be that question's, under another name.
    """
    there = {number for numbers in claimed.values() for number in numbers}
    following = [q.number for q in of.questions if q.number > last]
    return not following or following[0] in there


def _is_empty(lines: list[str], heading: _Heading, after: _Heading | None) -> bool:
    """Whether nothing is under a heading: one above the questions is a chapter's then."""
    end = after.line if after else len(lines)
    return not any(line.strip() for line in lines[heading.line + heading.lines : end])


def _says_more(text: str, numbers: tuple[int, ...], of: Sheet) -> bool:
    """Whether a heading says something beside naming its question."""
    found = _NUMBERS.fullmatch(_bare(text))
    said = _keys(found["rest"] if found else text)
    titles = [_keys(q.title) | _keys(q.text) for q in of.questions if q.number in numbers]
    return bool(said) and not any(said <= keys for keys in titles)


def _headings(lines: list[str], of: Sheet) -> list[_Heading]:
    """What is a heading, or may be one, outside of code."""
    found: list[_Heading] = []
    titles = {_words(q.title) for q in of.questions}
    fence, opened, mistaken = "", 0, set()
    i = 0
    while i < len(lines) and len(found) < MOST_HEADINGS:
        line = lines[i]
        mark = _FENCE.fullmatch(line)
        if fence:
            if mark and mark[1].startswith(fence) and not mark[2].strip():
                fence = ""
            elif line.startswith("#") and line.strip() in of.lines:
                fence = ""  # somebody forgot to close it
                continue
            elif i == len(lines) - 1 and len(mistaken) < 10:  # never closed: it was none
                mistaken.add(opened)
                fence, i = "", opened
                continue
        elif mark and "`" not in mark[2] and i not in mistaken and len(mistaken) < 10:
            fence, opened = mark[1], i
        elif heading := _heading(lines, i, titles):
            found.append(heading)
            i += heading.lines - 1
        i += 1
    return found


def _heading(lines: list[str], i: int, titles: set[str]) -> _Heading | None:
    line = lines[i]
    if atx := _ATX.fullmatch(line):
        text = re.sub(r"\s+#+\s*$", "", atx[2][:300])
        return _Heading(i, 1, len(atx[1]), text) if _bare(text) else None
    if not line.strip() or len(line) > 200:
        return None
    bold = _BOLD.fullmatch(line)
    under = i + 1 < len(lines) and _UNDERLINE.fullmatch(lines[i + 1])
    text = bold[2] if bold else line
    number = _NUMBERS.fullmatch(_bare(text))
    if not number and not bold and not under:
        return None
    rest = number["rest"] if number else text
    named = _words(rest) in titles
    alone = number is not None and not _words(rest) and bool(number["word"] or bold or under)
    if named or alone:
        return _Heading(i, 2 if under else 1, 0, text, bold=bool(bold or under))
    return None


def _claims(headings: list[_Heading], of: Sheet) -> tuple[dict[_Heading, tuple[int, ...]], int]:
    """Which heading names which questions, and the level at which questions stand."""
    known = {q.number: (_words(q.title), _keys(q.title), _keys(q.text)) for q in of.questions}
    ranked = [(h, *_claim(h, known)) for h in headings]
    levels = Counter(h.level for h, _, rank in ranked if rank <= _WORDS)
    if levels:
        level = max(levels, key=lambda each: (levels[each], -each))
    else:
        level = min((h.level for h, _, rank in ranked if rank == _NUMBER), default=6)
    best: dict[int, int] = {}
    for heading, numbers, rank in ranked:
        if rank == _NUMBER and heading.level > level:
            continue
        for number in numbers:
            best[number] = min(rank, best.get(number, rank))
    claimed = {}
    for heading, numbers, rank in ranked:
        if rank == _NUMBER and heading.level > level:
            continue
        kept = tuple(n for n in numbers if best[n] == rank)
        if kept:
            claimed[heading] = kept
    return claimed, level


def _claim(
    heading: _Heading, known: dict[int, tuple[str, frozenset[str], frozenset[str]]]
) -> tuple[tuple[int, ...], int]:
    """The questions that a heading names, and how sure that is."""
    found = _NUMBERS.fullmatch(_bare(heading.text))
    numbers = _counted(found["numbers"]) if found else ()
    rest = found["rest"] if found else heading.text
    words, keys = _words(rest), _keys(rest)
    by_words, by_number = (_WORDS, _NUMBER) if heading.level else (_LINE, _LINE_NUMBER)
    agrees = _AGREES if heading.level else _LINE
    if len(numbers) > 1:
        return (numbers, by_number) if all(n in known for n in numbers) else ((), 9)
    own = numbers[0] if numbers and numbers[0] in known else None
    exact = [n for n, (title, _, _) in known.items() if title == words]
    if exact:
        number = own if own in exact else exact[0]
        return (number,), agrees if number == own else by_words
    alike = {n: max(_alike(keys, title), _alike(keys, text)) for n, (_, title, text) in
             known.items()}  # fmt: skip
    if own is not None and alike[own] >= 0.4:
        return (own,), agrees
    order = sorted(alike, key=lambda n: -alike[n])
    if order and alike[order[0]] >= 0.65:
        second = alike[order[1]] if len(order) > 1 else 0.0
        if alike[order[0]] - second >= 0.2:
            return (order[0],), by_words
    if own is not None:
        return (own,), by_number
    return (), 9


def _counted(text: str) -> tuple[int, ...]:
    """The numbers of “3”, “1, 2 and 4” or “1-3”."""
    numbers = [int(n) for n in re.findall(r"\d+", text)]
    if len(numbers) == 2 and re.search(r"[-–—]|to|bis", text) and numbers[0] < numbers[1]:
        return tuple(range(numbers[0], numbers[1] + 1))
    return tuple(dict.fromkeys(numbers))


def _bare(text: str) -> str:
    return text.strip().strip("*_~ \t")


def _words(text: str) -> str:
    """The words of a text, without case and punctuation."""
    return " ".join(re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold()))


def _keys(text: str) -> frozenset[str]:
    """The words that tell one title from another."""
    words = frozenset(_words(text).split())
    return words - _SMALL or words


def _alike(one: frozenset[str], other: frozenset[str]) -> float:
    """From 0 (no word in common) to 1 (all)."""
    return 2 * len(one & other) / (len(one) + len(other)) if one and other else 0.0


def _without_starter(lines: list[str], of: Sheet) -> str:
    """What the student wrote: without placeholders, and what the starter says itself."""
    questions = {_words(q.text) for q in of.questions if q.text}
    kept: list[str] = []
    block: list[str] = []
    longest = max((len(q.text) for q in of.questions), default=0) * 2

    def end() -> None:
        whole = sum(map(len, block))
        if whole > longest or _words(" ".join(block)) not in questions:
            kept.extend(each for each in block if each.strip() not in of.lines)
        block.clear()

    for line in lines:
        if len(line) < 200 and _PLACEHOLDER.fullmatch(line):
            line = ""
        if block and (not line.strip() or line.startswith(">") != block[0].startswith(">")):
            end()
        if line.strip():
            block.append(line)
        else:
            kept.append(line)
    end()
    while kept and (not kept[-1].strip() or _RULE.fullmatch(kept[-1])):
        kept.pop()
    while kept and (not kept[0].strip() or _RULE.fullmatch(kept[0])):
        kept.pop(0)
    return "\n".join(kept)
