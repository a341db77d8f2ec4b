"""The timeline as a drawing: a whole SVG document that needs nothing else.

Time runs downwards, one row below the other in the order in which things happened; the seconds
stand at the left and are not to scale (a check does much in milliseconds and then waits). From the
left: the seconds, the status of each task as a band, a lane for each process, store and world, and
each row in words. What a reader hovers over tells the whole statement.
"""

from __future__ import annotations

import hashlib
import html
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from graders.harness import results
from graders.harness.report import spans, svg_style, timeline
from graders.harness.report.svg_style import COLUMN
from graders.harness.report.text import clean, cut, width_of, wrap
from graders.harness.results import TimelineRow

WIDTH = 1160  # pixels; more where there are many lanes
SHRUNK = 980  # the least in which a page still shows the wide one
NARROW = 660
MOST_ROWS = 60  # that are drawn

PAUSE = 0.5  # seconds between two rows that are worth a word
HEADS_EVERY = 24  # rows: the names of the lanes again
LINE = 18  # pixels
PAD = 6  # above and below the words of a row
MARGIN = 14
TIME = 78
TIME_NARROW = 64
BAND = 92
SLOT = 34  # a bar and the space to the next
MOST_SLOTS = 5  # bars side by side in one lane; what is more is told by its rows alone
LEAST_WORDS = 360  # pixels for the words of the rows
LEAST_WORDS_NARROW = 170
MOST_LINES = 4  # of one row; half as many again in a narrow one


def svg(rows: Sequence[TimelineRow], title: str, about: str = "", width: int = WIDTH) -> str:
    """The drawing of a timeline, as a document of its own that can also stand in a page of HTML.

    `title` and `about` (what broke, say) stand above it. It becomes wider than `width` pixels where
    its lanes need that. All names in it begin with a word made from what is drawn, so several
    drawings can stand in one page. No rows: a drawing that says so.
    """
    return _Drawing(rows, title, about, width).document()


def figure(rows: Sequence[TimelineRow], title: str, about: str = "") -> str:
    """The drawing as HTML for a notebook's page, with its text twin folded below it.

    Of the drawing there are two, and the page shows the one that fits it.
    """
    wide, narrow = svg(rows, title, about), svg(rows, title, about, NARROW)
    name = _name(rows, title, about, 0)
    words = "\n".join(html.escape(line) for line in spoken(rows))
    return f"""<figure class="{name}" style="margin: 0; container-type: inline-size">
<style>.{name} .{name}-narrow {{ display: none }}
.{name} .{name}-wide svg {{ max-width: 100%; min-width: {SHRUNK}px; height: auto }}
@container (max-width: {SHRUNK - 1}px) {{ .{name} .{name}-wide {{ display: none }}
.{name} .{name}-narrow {{ display: block }} }}</style>
<div class="{name}-wide" style="overflow-x: auto">{wide}</div>
<div class="{name}-narrow" style="overflow-x: auto">{narrow}</div>
<details><summary>The timeline as text</summary>
<pre style="white-space: pre-wrap">{words}</pre></details>
</figure>"""


def spoken(rows: Sequence[TimelineRow]) -> list[str]:
    """The text twin: each row in one line of words, for those who hear it."""
    return [_in_words(row) for row in rows] or ["Nothing was seen."]


def _in_words(row: TimelineRow) -> str:
    who = "" if row.lane == timeline.GRADER else f"{timeline.lane_name(row.lane)}"
    if row.to:
        who += f" to {timeline.lane_name(row.to)}"
    here = " (HERE it broke)" if row.mark == timeline.BROKE else ""
    return f"{row.at:.3f} s  {who + ': ' if who else ''}{clean(row.text)}{here}"


def _name(rows: Sequence[TimelineRow], title: str, about: str, width: int) -> str:
    told = repr((tuple(rows), title, about, width)).encode("utf-8", "backslashreplace")
    return "wl" + hashlib.sha256(told).hexdigest()[:8]


def _safe(text: str, *, newlines: bool = False) -> str:
    """Text that is text in XML, whatever it holds."""
    return html.escape(clean(text, newlines=newlines).translate(_NO_CHARACTERS))


_NO_CHARACTERS = {0xFFFE: "\\ufffe", 0xFFFF: "\\uffff"}  # no XML may hold these


@dataclass
class _Place:
    """Where something stands, from the top."""

    top: float
    height: float
    row: int | None = None  # the number of the row; None: heads, a pause, a gap
    words: tuple[str, ...] = ()
    what: str = "row"  # "row", "heads", "pause" or "gap"

    @property
    def middle(self) -> float:
        return self.top + PAD + LINE / 2


class _Drawing:
    """One drawing in the making. Its parts are put on the page from the back to the front."""

    def __init__(self, rows: Sequence[TimelineRow], title: str, about: str, width: int) -> None:
        self.rows = rows
        self.name = _name(rows, title, about, width)
        self.title, self.about = title, about
        self.roomy = width >= 900
        self.lanes = timeline.lanes_of(rows)
        bars = spans.bars(rows, self.lanes)
        self.bars = [bar for bar in bars if bar.slot < MOST_SLOTS]
        self.more_bars = len(bars) > len(self.bars)
        known = spans.bands(rows)
        self.tasks = spans.near_the_broken(rows, list(known))
        self.bands = [band for task in self.tasks for band in known[task]]
        self.more_tasks = len(known) - len(self.tasks)
        self._across(width)
        self._down()

    # Where things are

    def _across(self, width: int) -> None:
        self.time_end = MARGIN + (TIME if self.roomy else TIME_NARROW)
        x: float = self.time_end
        self.band_at: dict[str, float] = {}
        for task in self.tasks:
            self.band_at[task] = x
            x += BAND + 6
        x += 10 if self.tasks and self.roomy else 0
        self.lane_at: dict[str, float] = {}
        for lane in self.lanes:
            slots = 1 + max((bar.slot for bar in self.bars if bar.lane == lane), default=0)
            name = width_of(cut(timeline.lane_name(lane), 20)) * COLUMN
            left = max(name / 2, 17) + (7 if self.roomy else 4)
            # of a process something may stand beside its line
            words = 78 if self.roomy and lane not in (*timeline.SERVERS, timeline.WORLD) else 21
            right = SLOT * (slots - 1) + words
            self.lane_at[lane] = x + left
            each = left + max(right, left)
            x += each
        alone = self.lanes and self.lanes[-1] in (*timeline.SERVERS, timeline.WORLD)
        self.words_at = x + (12 if alone or not self.roomy else 28)
        least = LEAST_WORDS if self.roomy else LEAST_WORDS_NARROW
        self.width = max(width, round(self.words_at + least + MARGIN))
        self.columns = int((self.width - MARGIN - self.words_at) / COLUMN)

    def _down(self) -> None:
        self.title_lines = wrap(self.title, int((self.width - 2 * MARGIN) / 9.8), 2)
        about = int((self.width - 2 * MARGIN) / COLUMN)
        self.about_lines = wrap(self.about, about, 6) if self.about else []
        y = MARGIN + 22 * len(self.title_lines) + LINE * len(self.about_lines) + 10
        self.places: list[_Place] = []
        self.place_of: dict[int, _Place] = {}

        def put(height: float, **more: Any) -> _Place:
            nonlocal y
            place = _Place(y, height, **more)
            self.places.append(place)
            y += height
            return place

        if self.rows:
            put(2 * PAD + LINE, what="heads")
        previous, since_heads = -1, 0
        for i in timeline.chosen(self.rows, MOST_ROWS):
            row = self.rows[i]
            if since_heads >= HEADS_EVERY:
                put(2 * PAD + LINE, what="heads")
                since_heads = 0
            since_heads += 1
            waited = row.at - self.rows[i - 1].at if i else 0.0
            if i > previous + 1:
                self._gap(previous + 1, i, put)
            elif waited >= PAUSE and row.kind != results.GAP:
                put(2 * PAD + LINE - 4, words=(f"{waited:.1f} seconds later",), what="pause")
            previous = i
            lines = self._lines(row)
            least = 2 * LINE + 2 * PAD if row.mark == timeline.BROKE else 0
            self.place_of[i] = put(max(LINE * len(lines) + 2 * PAD, least), row=i,
                                   words=tuple(lines))
        if previous < len(self.rows) - 1:
            self._gap(previous + 1, len(self.rows), put)
        # room for the name of what begins in the last row
        late = any(each.first == len(self.rows) - 1 for each in (*self.bands, *self.bars))
        self.bottom = y + (LINE if late else 0)

    def _gap(self, first: int, end: int, put: Callable[..., _Place]) -> None:
        count = end - first
        words = f"… {count} row{'' if count == 1 else 's'} left out"
        place = put(2 * PAD + LINE, words=(words,), what="gap")
        for hidden in range(first, end):
            self.place_of[hidden] = place

    def _lines(self, row: TimelineRow) -> list[str]:
        words = clean(row.text)
        lines = wrap(words, self.columns)
        most = MOST_LINES if self.roomy else MOST_LINES * 3 // 2
        room = self.columns * most
        while len(lines) > most:  # the end says what came of it
            lines = wrap(cut(words, room, middle=True), self.columns)
            room -= 4
        return lines

    def _y(self, row: int | None) -> float:
        """The height at which a row's arrow is; the bottom for None."""
        return self.bottom - 4 if row is None else self.place_of[row].middle

    def _free(self, y: float) -> bool:
        """Whether a line of text at this height is not below the names of the lanes."""
        return not any(place.top - LINE / 2 < y < place.top + place.height + LINE / 2 - 4
                       for place in self.places if place.what == "heads")

    def _edges(self, lane: str, row: int) -> tuple[float, float]:
        """Left and right end of what stands in a lane at a row: where its arrow begins or ends."""
        x = self.lane_at[lane]
        here = [bar for bar in self.bars if bar.lane == lane and bar.first <= row
                and (bar.last is None or row <= bar.last)]
        if not here:
            return x - 2, x + 2
        own = [bar for bar in here if bar.kind == spans.WORK and bar.task in self.rows[row].tasks]
        if own:
            x += SLOT * own[0].slot
            return x - 12, x + 12
        return x - 15, x + 15 + SLOT * max(bar.slot for bar in here)

    # The page

    def document(self) -> str:
        body = "\n".join(part for part in self._parts() if part)
        key, height = self._key(self.bottom + 14)
        height = round(height)
        p = self.name
        told = timeline.chosen(self.rows, MOST_ROWS)
        twin = [_in_words(self.rows[i]) for i in told] or ["Nothing was seen."]
        if len(told) < len(self.rows):
            twin.append(f"{len(self.rows) - len(told)} more rows are not drawn.")
        description = "\n".join(filter(None, [self.about, *twin]))
        statuses = {svg_style.pattern_id(p, band.status): band.status for band in self.bands}
        patterns = "".join(svg_style.pattern(p, status) for status in statuses.values())
        return f"""<svg xmlns="http://www.w3.org/2000/svg" class="{p}" width="{self.width}" \
height="{height}" viewBox="0 0 {self.width} {height}" role="img" \
aria-labelledby="{p}-title {p}-desc">
<title id="{p}-title">{_safe(self.title)}</title>
<desc id="{p}-desc">{_safe(description, newlines=True)}</desc>
<style>{svg_style.css(p)}</style>
<defs>{patterns}</defs>
<rect class="{p}-ground" width="{self.width}" height="{height}"/>
{body}
{key}
</svg>
"""

    def _parts(self) -> Iterator[str]:
        y = MARGIN + 14.0
        for line in self.title_lines:
            yield self._text(MARGIN, y, line, "title")
            y += 22
        for line in self.about_lines:
            yield self._text(MARGIN, y - 2, line)
            y += LINE
        if not self.rows:
            yield self._text(MARGIN, self.bottom, "Nothing was seen.", "quiet")
            return
        yield from self._broken_ground()
        yield from self._lifelines()
        yield from (self._band(band) for band in self.bands)
        yield from (self._bar(bar) for bar in self.bars)
        for place in self.places:
            if place.what == "heads":
                yield from self._heads(place)
            elif place.row is None:
                yield from self._between(place)
            else:
                yield self._row(self.rows[place.row], place)

    def _text(self, x: float, y: float, text: str, style: str = "", anchor: str = "") -> str:
        """Text whose line has its middle at y. Its anchor is its start, unless told."""
        kind = f' class="{self.name}-{style}"' if style else ""
        anchor = f' text-anchor="{anchor}"' if anchor else ""
        return f'<text x="{x:g}" y="{y + 4.5:g}"{kind}{anchor}>{_safe(text)}</text>'

    def _line(self, style: str, x1: float, y1: float, x2: float, y2: float) -> str:
        return (f'<line class="{self.name}-{style}" x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" '
                f'y2="{y2:g}"/>')

    def _heads(self, place: _Place) -> Iterator[str]:
        p, y = self.name, place.middle
        yield (f'<rect class="{p}-ground" x="0" y="{place.top:g}" width="{self.width}" '
               f'height="{place.height:g}"/>')
        yield self._text(self.time_end - 14, y, "seconds", "quiet", "end")
        for task, x in self.band_at.items():
            yield self._text(x + BAND / 2, y, cut(task, 11), "head", "middle")
        for lane, x in self.lane_at.items():
            yield self._text(x, y, cut(timeline.lane_name(lane), 20), "head", "middle")
        edge = place.top + place.height - 2
        yield self._line("life", MARGIN, edge, self.width - MARGIN, edge)

    def _between(self, place: _Place) -> Iterator[str]:
        yield self._line("rule", self.time_end, place.middle, self.words_at - 8, place.middle)
        yield self._text(self.words_at, place.middle, place.words[0], "quiet")

    def _broken_ground(self) -> Iterator[str]:
        p = self.name
        for place in self.places:
            if place.row is None or self.rows[place.row].mark != timeline.BROKE:
                continue
            yield (f'<rect class="{p}-broke-ground" x="0" y="{place.top:g}" width="{self.width}" '
                   f'height="{place.height:g}"/>')
            for y in (place.top, place.top + place.height):
                yield self._line("broke-edge", 0, y, self.width, y)

    def _lifelines(self) -> Iterator[str]:
        for lane, (first, last) in zip(
            self.lanes, timeline.lifetimes(self.rows, self.lanes), strict=True
        ):
            x = self.lane_at[lane]
            top = self.places[0].top + self.places[0].height if first == 0 else self._y(first)
            end = self._y(last if last < len(self.rows) else None)
            yield self._line("life", x, top, x, end)

    def _band(self, band: spans.Band) -> str:
        p, x = self.name, self.band_at[band.task]
        top, end = self._y(band.first) + 1, self._y(band.last) - 1
        fill = f"url(#{svg_style.pattern_id(p, band.status)})"
        if not svg_style.pattern(p, band.status):
            fill = "none"
        shape = (f'<rect class="{p}-band" x="{x + 2:g}" y="{top:g}" width="{BAND - 4}" '
                 f'height="{max(end - top, 3):g}" rx="3" fill="{fill}" '
                 f"{svg_style.border(band.status)}/>")
        until = "" if band.last is None else f" to {self.rows[band.last].at:.3f}"
        told = f"{band.task}: {band.status}, from {self.rows[band.first].at:.3f}{until} s"
        names = []
        # again wherever the lanes' names are repeated
        for start in [top, *(h.top + h.height for h in self.places if h.what == "heads")]:
            y = start + LINE / 2 + 4
            if top <= start and y + LINE / 2 <= end + 1 and self._free(y):
                word = cut(band.status, 10)
                wide = width_of(word) * COLUMN + 6
                names.append(f'<rect class="{p}-ground" x="{x + (BAND - wide) / 2:g}" '
                             f'y="{y - 9:g}" width="{wide:g}" height="18" rx="2"/>'
                             + self._text(x + BAND / 2, y, word, "", "middle"))
        return f"<g><title>{_safe(told)}</title>{shape}{''.join(names)}</g>"

    def _bar(self, bar: spans.Bar) -> str:
        p = self.name
        top, end = self._y(bar.first), self._y(bar.last)
        half = 15 if bar.kind == spans.CLAIM else 11
        x = self.lane_at[bar.lane] + SLOT * bar.slot
        open_ = " " + f"{p}-open" if bar.last is None and bar.kind == spans.CLAIM else ""
        shape = (f'<rect class="{p}-{bar.kind}{open_}" x="{x - half:g}" y="{top:g}" '
                 f'width="{2 * half}" height="{max(end - top, 4):g}" rx="3"/>')
        until = "" if bar.last is None else f" to {self.rows[bar.last].at:.3f}"
        what = "has claimed" if bar.kind == spans.CLAIM else "works on"
        told = f"{bar.lane} {what} {bar.task}, from {self.rows[bar.first].at:.3f}{until} s"
        if bar.lost:
            told += "; the work was never finished"
        word = ""
        if end - top >= LINE + 8 and self._free(top + 12):
            style = "bold" if bar.kind == spans.CLAIM else "on-work"
            word = self._text(x, top + 12, cut(bar.task, 3), style, "middle")
        lost = svg_style.slashes(p, x, end) if bar.lost else ""
        return f"<g><title>{_safe(told)}</title>{shape}{word}{lost}</g>"

    def _row(self, row: TimelineRow, place: _Place) -> str:
        p, y = self.name, place.middle
        broke = row.mark == timeline.BROKE
        parts = [f'<rect class="{p}-hit" x="{self.words_at - 8:g}" y="{place.top:g}" '
                 f'width="{self.width - self.words_at:g}" height="{place.height:g}"/>']
        if broke:
            left, right = 4, self.time_end - 10
            parts.append(f'<path class="{p}-broke" d="M{left} {y - 11:g}H{right - 10}L{right} '
                         f'{y:g}L{right - 10} {y + 11:g}H{left}z"/>')
            parts.append(self._text(14, y, "HERE", "on-broke"))
        time = y + LINE if broke else y
        parts.append(self._text(self.time_end - 14, time, f"{row.at:.3f}", "quiet", "end"))
        style = {results.LOG: "log", results.GAP: "quiet", results.STATUS: "bold"}.get(row.kind, "")
        for n, line in enumerate(place.words):
            parts.append(self._text(self.words_at, y + LINE * n, line, "bold" if broke else style))
        parts.append(self._what_happened(row, place, y))
        told = _in_words(row)
        if row.detail:
            told += f"\n\n{row.detail}"
        return f'<g class="{p}-row"><title>{_safe(told, newlines=True)}</title>{"".join(parts)}</g>'

    def _what_happened(self, row: TimelineRow, place: _Place, y: float) -> str:
        if row.lane not in self.lane_at or place.row is None:
            return ""
        if row.to in self.lane_at and row.to != row.lane:
            return self._arrow(row, place.row, y)
        mark = svg_style.MARKS.get(row.kind, svg_style.MARKS[results.NOTE])[0]
        x = self.lane_at[row.lane]
        if row.kind == results.GAP:
            return self._text(x, y, "⋮", "bold", "middle")
        word = self._word(row)
        if not word or not self.roomy:
            return mark(self.name, x, y)
        right = max(self._edges(row.lane, place.row)[1], x + 8) + 6
        return mark(self.name, x, y) + self._text(right, y, word, "word")

    def _word(self, row: TimelineRow) -> str:
        if row.kind in (results.SIGNAL, results.KILL):
            return cut(row.text.split(" ", 1)[0], 8)
        return {results.START: "starts", results.EXIT: "ended", results.CUT: "cut"}.get(
            row.kind, "")

    def _arrow(self, row: TimelineRow, number: int, y: float) -> str:
        p = self.name
        here, there = self._edges(row.lane, number), self._edges(row.to, number)
        right = self.lane_at[row.to] > self.lane_at[row.lane]
        x1, x2 = (here[1], there[0]) if right else (here[0], there[1])
        sign = 1 if right else -1
        broken = row.kind in (results.UNANSWERED, results.CUT, results.WORK_LOST)
        back = row.kind in (results.ANSWER, results.WORK_DONE)
        parts = [f'<line x1="{x1:g}" y1="{y:g}" x2="{x2:g}" y2="{y:g}" '
                 f'class="{p}-stroke{f" {p}-lost" if broken else ""}"/>',
                 f'<path class="{p}-hit" d="M{x1:g} {y - 7:g}H{x2:g}v14H{x1:g}z"/>']
        if row.kind == results.CLOSE:
            parts.append(self._line("thick", x2 - sign * 2, y - 7, x2 - sign * 2, y + 7))
        elif back:
            parts.append(f'<path class="{p}-stroke" d="M{x2 - sign * 9:g} {y - 5:g}L{x2:g} {y:g}'
                         f'L{x2 - sign * 9:g} {y + 5:g}"/>')
        else:
            parts.append(f'<path class="{p}-full" d="M{x2 - sign * 11:g} {y - 5.5:g}L{x2:g} {y:g}'
                         f'L{x2 - sign * 11:g} {y + 5.5:g}z"/>')
        if row.kind in (results.CUT, results.WORK_LOST):
            parts.append(svg_style.slashes(p, x1 + sign * min(abs(x2 - x1) / 2, 32), y))
        return "".join(parts)

    # The key

    def _key(self, y: float) -> tuple[str, float]:
        """What the shapes mean, of those that are drawn; and where it ends."""
        if not self.rows:
            return "", self.bottom + 24
        p = self.name
        shown = {self.rows[place.row].kind for place in self.places if place.row is not None
                 and self.rows[place.row].lane in self.lane_at}
        arrows = [
            ((results.MESSAGE, results.WORK), results.MESSAGE, "message (with its answer, if "
             "nothing came between)"),
            ((results.ANSWER, results.WORK_DONE), results.ANSWER, "answer"),
            ((results.UNANSWERED,), results.UNANSWERED, "its sender never got an answer"),
            ((results.CLOSE,), results.CLOSE, "a connection is closed"),
        ]
        items: list[tuple[float, str, str]] = []  # width of the picture, picture at 0 0, words
        for kinds, kind, words in arrows:
            if shown & set(kinds):
                items.append((34, self._sample(kind), words))
        for kind, (mark, words) in svg_style.MARKS.items():
            if kind in shown or (kind == results.CUT and results.WORK_LOST in shown):
                items.append((20, mark(p, 9, 0), words))
        for kind, words in ((spans.CLAIM, "a claim: the row names this worker"),
                            (spans.WORK, "work: its call for the task is open")):
            if any(bar.kind == kind for bar in self.bars):
                shape = f'<rect class="{p}-{kind}" x="1" y="-8" width="16" height="16" rx="3"/>'
                items.append((22, shape, words))
        parts = [self._line("life", MARGIN, y, self.width - MARGIN, y)]
        y += 20
        x: float = MARGIN
        for wide, picture, words in items:
            each = wide + 8 + width_of(words) * COLUMN
            if x > MARGIN and x + each > self.width - MARGIN:
                x, y = MARGIN, y + 24
            parts.append(f'<g transform="translate({x:g} {y:g})">{picture}'
                         + self._text(wide + 6, 0, words, "quiet") + "</g>")
            x += each + 26
        notes = "One row below the other, in their order: the seconds are not to scale."
        if self.more_tasks:
            more = f"{self.more_tasks} other task{'' if self.more_tasks == 1 else 's'}"
            notes += f" The status of {more} is not drawn."
        if self.more_bars:
            notes += f" No more than {MOST_SLOTS} bars are drawn side by side."
        y += 26
        for line in wrap(notes, int((self.width - 2 * MARGIN) / COLUMN)):
            parts.append(self._text(MARGIN, y, line, "quiet"))
            y += LINE
        return "".join(parts), y + 6

    def _sample(self, kind: str) -> str:
        p = self.name
        lost = f" {p}-lost" if kind == results.UNANSWERED else ""
        line = f'<line class="{p}-stroke{lost}" x1="0" y1="0" x2="32" y2="0"/>'
        if kind == results.CLOSE:
            return line + self._line("thick", 31, -7, 31, 7)
        if kind == results.ANSWER:
            return line + f'<path class="{p}-stroke" d="M23 -5L32 0L23 5"/>'
        return line + f'<path class="{p}-full" d="M22 -5.5L33 0L22 5.5z"/>'
